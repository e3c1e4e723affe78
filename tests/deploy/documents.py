"""YAML for the tests: as JSON, or held against a schema. What is wrong goes to standard error, and the exit code is 1.

    documents.py json FILE          its documents, as one array
    documents.py kubernetes         standard input's documents, against the API's own schemas, unknown fields refused
    documents.py compose            standard input, against the compose file's schema
"""

import json
import sys
from importlib.metadata import files
from pathlib import Path

import yaml

KUBERNETES = "1.33"


class Loader(yaml.SafeLoader):
    """As YAML says and PyYAML does not: a key stands in a mapping once."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {', '.join(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


def documents(text):
    return [document for document in yaml.load_all(text, Loader) if document is not None]


def kubernetes(document):
    import kubernetes_validate

    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def compose(document):
    import jsonschema

    schema = next(file for file in files("docker-compose") if file.name == "compose_spec.json")
    # `name` is newer than this schema.
    rest = {key: value for key, value in document.items() if key != "name"}
    jsonschema.validate(rest, json.loads(Path(schema.locate()).read_text()))


def main(what, *arguments):
    if what == "json":
        json.dump(documents(Path(arguments[0]).read_text()), sys.stdout)
        return
    for document in documents(sys.stdin.read()):
        {"kubernetes": kubernetes, "compose": compose}[what](document)


try:
    main(*sys.argv[1:])
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
