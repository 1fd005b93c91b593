"""Settings that follow from the size of a catalogue."""

from vixml.config.defaults import training_defaults
from vixml.config.load import load_runs, load_world


def test_pictos_rows_of_vixml_new_have_the_settings_that_it_writes():
    counts = load_world("config").datasets["picto"].expect
    wanted = training_defaults(counts.n_train, counts.n_labels, max_images=3, words=3)
    runs = load_runs("config")
    for modality in ("text", "vixml"):
        run = runs["picto", f"{modality}-minilm-l3--vixml-new"].model_dump()
        wrong = {
            (section, key): (run[section][key], value)
            for section, keys in wanted.items()
            for key, value in (keys or {}).items()
            if run[section][key] != value
        }
        assert not wrong
        assert run["inference"]["method"] == "chosen" and run["mining"] is None
