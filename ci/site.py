"""The parts of the site that docs/ does not hold, for `make docs`; mkdocs.yml names this file.

A page per command is its --help, a page per kind of JSON is its schema, and examples/*.ipynb is a
page too: each has one definition, elsewhere. Links out of docs/ go to the repository.
"""

import inspect
import json
import re
import tomllib
from pathlib import Path

import click
import griffe
from mkdocs.structure.files import File

from kvmbench.cli import schema
from kvmbench.cli.help import COMMANDS
from kvmbench.cli.main import main
from kvmbench.formats import READABLE, WRITABLE

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT["urls"]["Source"]
FORMATS = {"readable": READABLE, "writable": WRITABLE}
NOTEBOOK = ROOT / "examples" / "own_policy.ipynb"


# MkDocs calls these by their names.


def on_config(config):
    """Add the pages made here to the navigation, each after the page that introduces them."""
    made = {
        "commands.md": [path for path, _ in command_pages()],
        "formats.md": [f"schemas/{kind}.md" for kind in schema.HOMES],
    }
    for section in config.nav:
        for pages in section.values():
            if not isinstance(pages, list):
                continue
            for place, entry in enumerate(pages):
                ((title, page),) = entry.items()
                if page in made:
                    pages[place] = {title: [page, *made[page]]}
            if {"C API": "c-api.md"} in pages:
                pages.insert(1, {"A notebook": "notebook.md"})
    return config


def on_files(files, config):
    """Add the text of the pages made here, and the schemas as JSON."""
    texts = dict(command_pages())
    for kind in schema.HOMES:
        found = json_schema(kind)
        texts[f"schemas/{kind}.md"] = schema_page(kind, json.loads(found))
        texts[f"schemas/{kind}.json"] = found
    texts["notebook.md"], pictures = notebook_page(json.loads(NOTEBOOK.read_text()))
    texts |= pictures
    for path, text in texts.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fill in the lists that a page asks for, and let links out of docs/ lead to the repository."""
    markdown = re.sub(r"<!-- made: (\w+) -->", lambda found: made(found[1]), markdown)
    if page.file.src_uri != "notebook.md":
        markdown = markdown.replace(f"(../examples/{NOTEBOOK.name})", "(notebook.md)")
    return re.sub(r"\]\(\.\./", f"]({REPOSITORY}/blob/main/", markdown)


def made(what):
    """Return a table of the commands, of the kinds of JSON or of the formats."""
    if what == "commands":
        rows = [(f"[{name}](commands/{name}.md)", about) for name, (_, about) in COMMANDS.items()]
    elif what == "schemas":
        titles = ((kind, json.loads(json_schema(kind))) for kind in schema.HOMES)
        rows = [
            (f"[{found['title']}](schemas/{kind}.md)", first_words(found)) for kind, found in titles
        ]
    else:
        rows = [(f"`{name}`", about) for name, about in FORMATS[what].items()]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {about} |" for name, about in rows)])


def first_words(found):
    """Return the first line of the description of a schema's first record."""
    record = found["$defs"][found["$ref"].rpartition("/")[2]]
    return record.get("description", "").partition("\n")[0]


# Commands


def command_pages():
    """Return (path, Markdown) per command; a group's page has its subcommands."""
    settings = main.context_settings | {"terminal_width": 88}
    root = click.Context(main, info_name="kvmbench", **settings)
    return [
        (f"commands/{name}.md", command_page(root, name, main.get_command(root, name)))
        for name in COMMANDS
    ]


def command_page(parent, name, command):
    """Return the page of a command: its help, and each subcommand's."""
    parts = [f"# kvmbench {name}\n\n{COMMANDS[name][1]}\n"]
    context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
    parts.append(f"```text\n{command.get_help(context)}\n```\n")
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            chosen = command.get_command(context, below)
            inner = click.Context(chosen, info_name=below, parent=context)
            parts.append(f"## kvmbench {name} {below}\n\n```text\n{chosen.get_help(inner)}\n```\n")
    return "\n".join(parts)


# Schemas


def json_schema(kind):
    """Return the output of `kvmbench schema KIND`."""
    from click.testing import CliRunner

    return CliRunner().invoke(main, ["schema", kind], catch_exceptions=False).output


def schema_page(kind, found):
    """Return the page of a kind of JSON: a table of fields per record."""
    parts = [f"# {found['title']}\n\n`kvmbench schema {kind}`, as [JSON Schema]({kind}.json).\n"]
    first = found.get("$ref", "").rpartition("/")[2]
    records = found.get("$defs", {})
    for name in sorted(records, key=lambda name: name != first):
        parts.append(record(name, records[name]))
    return "\n".join(parts)


def record(name, found):
    """Return a heading, the description and the table of one record."""
    about = inspect.cleandoc(found.get("description", ""))
    lines = [f"## {name}\n", f"{about}\n"]
    if "properties" in found:
        required = found.get("required", ())
        lines += ["| field | type | default |", "|---|---|---|"]
        for field, declared in found["properties"].items():
            default = f"`{json.dumps(declared['default'])}`" if "default" in declared else ""
            default = "required" if field in required else default
            words = declared.get("description", "")
            lines.append(f"| `{field}` | {kind_of(declared)}{words and ': ' + words} | {default} |")
    else:
        lines.append(kind_of(found))
    return "\n".join(lines) + "\n"


def kind_of(declared):
    """Return the words for a schema's type; a record's name is a link to its table."""
    if "$ref" in declared:
        name = declared["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for many in ("anyOf", "oneOf"):
        if many in declared:
            return " or ".join(kind_of(one) for one in declared[many])
    if "const" in declared:
        return f"`{json.dumps(declared['const'])}`"
    if "enum" in declared:
        return " or ".join(f"`{json.dumps(one)}`" for one in declared["enum"])
    name = declared.get("type", "any")
    if "prefixItems" in declared:
        return "array of " + ", ".join(kind_of(one) for one in declared["prefixItems"])
    if name == "array":
        return f"array of {kind_of(declared.get('items', {}))}"
    if name == "object" and isinstance(declared.get("additionalProperties"), dict):
        return f"object of {kind_of(declared['additionalProperties'])}"
    bounds = {"minimum": "at least", "exclusiveMinimum": "above"}
    bounds |= {"maximum": "at most", "exclusiveMaximum": "below"}
    said = [f"{words} {declared[key]}" for key, words in bounds.items() if key in declared]
    return ", ".join([name, *said])


# The notebook


def notebook_page(notebook):
    """Return the Markdown of an executed notebook, and its pictures by path."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/svg+xml" in data:
                path = f"notebook-{len(pictures) + 1}.svg"
                pictures[path] = "".join(data["image/svg+xml"])
                parts.append(f"![the cell's plot]({path})")
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{text.rstrip()}\n```")
    parts.append(f"The notebook: [{NOTEBOOK.name}](../examples/{NOTEBOOK.name}).")
    return "\n\n".join(parts) + "\n", pictures


# The API


class Docstrings(griffe.Extension):
    """Docstrings of the extensions: a .pyi has the signatures, the module has the words."""

    def on_package(self, *, pkg, **_):
        """Give each object of a compiled module the docstring that it has when imported."""
        for name in ("_core", "_ports"):
            imported = getattr(__import__(f"kvmbench.{name}"), name)
            self.describe(pkg[name], imported)

    def describe(self, described, imported):
        """Take over the docstring of an object and of its members."""
        for name, member in described.members.items():
            found = getattr(imported, name, None)
            if name.startswith("_") or member.is_alias or found is None:
                continue
            words = inspect.getdoc(found) or ""
            # Cython's first line is the signature.
            words = re.sub(rf"\A(?:\w+\.)*{name}\(.*\n+", "", words)
            member.docstring = griffe.Docstring(words, parent=member)
            if member.is_class:
                self.describe(member, found)
