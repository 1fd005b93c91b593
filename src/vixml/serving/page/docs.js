"use strict";

function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/* Return a schema's type in words. */
function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  return schema.format === "binary" ? "file" : schema.type ?? "any";
}

function limits(schema) {
  const found = [];
  if (schema.default !== undefined) found.push(`default ${JSON.stringify(schema.default)}`);
  if (schema.minimum !== undefined) found.push(`from ${schema.minimum}`);
  if (schema.maximum !== undefined) found.push(`to ${schema.maximum}`);
  return found.join(", ");
}

function table(schema) {
  const required = schema.required ?? [];
  const rows = Object.entries(schema.properties ?? {}).map(([name, one]) => make("tr", {},
    make("th", { scope: "row", textContent: name + (required.includes(name) ? "" : " ?") }),
    make("td", { textContent: typeOf(one) }), make("td", { textContent: limits(one) }), make("td", { textContent: one.description ?? "" })));
  const head = make("tr", {}, ...["key", "type", "values", "meaning"].map((textContent) => make("th", { scope: "col", textContent })));
  return make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

function operation(path, method, about) {
  const made = make("section", {}, make("h2", { textContent: `${method.toUpperCase()} ${path}` }), make("p", { textContent: about.description ?? "" }));
  for (const [kind, { schema }] of Object.entries(about.requestBody?.content ?? {})) {
    made.append(make("h3", { textContent: `Body: ${kind}` }), table(schema));
  }
  const answers = Object.entries(about.responses).map(([status, one]) => {
    const kinds = Object.entries(one.content ?? {}).map(([kind, { schema }]) => schema ? typeOf(schema) : kind).join(", ");
    return make("li", { textContent: `${status}: ${one.description}${kinds && ` (${kinds})`}` });
  });
  made.append(make("h3", { textContent: "Answers" }), make("ul", {}, ...answers));
  return made;
}

async function show() {
  const api = await (await fetch("/openapi.json")).json();
  const schemas = api.components.schemas;
  const paths = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, about]) => operation(path, method, about)));
  const base = location.origin;
  const examples = [
    `curl ${base}/v1/tags -H 'content-type: application/json' -d '{"items": ["a text"], "k": 5}'`,
    `curl ${base}/v1/tags -F text='a text' -F images=@photo.jpg -F k=5`,
    `curl ${base}/v1/embeddings -H 'content-type: application/json' -d '{"input": ["a text", "another"]}'`,
  ];
  const parts = Object.entries(schemas).map(([name, schema]) =>
    make("section", {}, make("h3", { textContent: name }), make("p", { textContent: schema.description ?? "" }), table(schema)));
  document.getElementById("api").replaceChildren(
    make("p", { textContent: api.info.description }), make("pre", { tabIndex: 0, textContent: examples.join("\n") }),
    ...paths, make("h2", { textContent: "Objects" }), ...parts);
}

show().catch((error) => { document.getElementById("api").textContent = `The description cannot be shown: ${error.message}`; });
