"""Launch links: one table (`tools/course.json`), one command that writes every link, one that checks them.

    python -m tools.links --check
    python -m tools.links --write
    python -m tools.links --repository OWNER/NAME --branch BRANCH

A block `<!-- launch: PATH -->` ... `<!-- /launch -->`, in a Markdown file or in a Markdown cell of a
notebook, holds the links that open the notebook PATH. The address in `git+https://...@BRANCH` and after
`git clone` is the repository's, too. Standard library only.
"""

import argparse
import json
import os
import re
import sys
from functools import partial
from pathlib import Path
from urllib.parse import quote

from tools.files import ROOT, notebook_text, write_text

TABLE = Path("tools/course.json")
KINDS = {".md", ".ipynb", ".po", ".py", ".toml", ".yml", ".yaml", ".json", ".txt"}
SKIPPED = {".git", ".venv", "build", "runs", "__pycache__", ".ipynb_checkpoints"}
BLOCK = re.compile(r"(<!-- launch: ([^\s>]+\.ipynb) -->)(.*?)(<!-- /launch -->)", re.DOTALL)
INSTALLED = re.compile(r"(git\+https://github\.com/)[\w.-]+/[\w-]+(\.git)?@[\w./-]*[\w-]")
CLONED = re.compile(r"(git clone (?:-\S+ )*https://github\.com/)[\w.-]+/[\w-]+")


def main(argv=None):
    """Check or write the links; return 1 if a check finds a disagreement, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="list what disagrees, change nothing")
    parser.add_argument("--write", action="store_true", help="rewrite every link")
    parser.add_argument("--repository", help="the course's new address on GitHub, OWNER/NAME")
    parser.add_argument("--branch", help="the branch that the links open")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.check:
        return report(problems(options.root))
    if options.repository or options.branch:
        move(options.root, options.repository, options.branch)
    elif not options.write:
        parser.error("expected --check, --write, or --repository OWNER/NAME [--branch BRANCH]")
    changed = rewrite_all(options.root, partial(rewritten, course=load(options.root)))
    print(f"{len(changed)} files rewritten" + "".join(f"\n  {name}" for name in changed))
    return 0


def report(found):
    """Print the list of problems; return the exit status."""
    for problem in found:
        print(problem)
    if found:
        print("Mend these with: python -m tools.links --write")
    return 1 if found else 0


def load(root=ROOT):
    """Return the table: repository, branch, hosts."""
    return json.loads((Path(root) / TABLE).read_text(encoding="utf-8"))


def move(root, repository, branch):
    """Change the address in the table, and wherever else the old one is written out."""
    old = load(root)
    new = {**old, "repository": repository or old["repository"], "branch": branch or old["branch"]}
    if not re.fullmatch(r"[\w-]+/[\w-]+", new["repository"]):
        sys.exit(f"--repository {repository} is no address: OWNER/NAME was expected, as in its GitHub URL.")
    if not re.fullmatch(r"\w([\w./-]*[\w-])?", new["branch"]):
        sys.exit(f"--branch {branch} is no branch name: letters, digits, dots and slashes were expected.")
    write_text(table_text(new), Path(root) / TABLE)
    views = re.compile(
        rf"(github\.com/{re.escape(new['repository'])}/(?:blob|tree|raw)/){re.escape(old['branch'])}/"
    )

    def replace(text):
        return views.sub(rf"\g<1>{new['branch']}/", text.replace(old["repository"], new["repository"]))

    rewrite_all(root, replace)


def table_text(course):
    """Return `course` as the text of the table, one host or language a line."""
    hosts = ",\n".join(f"    {as_json(host)}" for host in course["hosts"])
    languages = ",\n".join(f'    "{key}": {as_json(phrases)}' for key, phrases in course["languages"].items())
    head = "".join(f'  "{key}": {as_json(course[key])},\n' for key in ("repository", "branch"))
    return f'{{\n{head}  "hosts": [\n{hosts}\n  ],\n  "languages": {{\n{languages}\n  }}\n}}\n'


def as_json(value):
    """Return `value` as JSON on one line, in its own letters."""
    return json.dumps(value, ensure_ascii=False)


def launch_line(course, path):
    """Return the links that open the notebook `path`, those with a GPU first, in its own language."""
    links = {True: [], False: []}
    for host in course["hosts"]:
        links[host["gpu"]].append(f"[{host['name']}]({url(course, host, path)})")
    folder = Path(path).parent.name
    phrases = course["languages"].get(folder) or course["languages"]["en"]
    return phrases["launch"].format(gpu=" · ".join(links[True]), cpu=" · ".join(links[False]))


def url(course, host, path):
    """Return the address that opens the notebook `path` on `host`."""
    repository, branch = course["repository"], quote(course["branch"])
    blob = f"https://github.com/{repository}/blob/{branch}/{quote(path)}"
    return host["url"].format(
        repository=repository,
        branch=branch,
        encoded_branch=quote(course["branch"], safe=""),
        path=quote(path),
        encoded_blob=quote(blob, safe=""),
    )


def rewritten(text, course):
    """Return `text` with every link block and every address as the table has it."""
    repository, branch = course["repository"], course["branch"]

    def block(found):
        edge = "\n" if "\n" in found[3] else ""  # a block in a table's row stays on its line
        return found[1] + edge + launch_line(course, found[2]) + edge + found[4]

    text = BLOCK.sub(block, text)
    text = INSTALLED.sub(lambda found: f"{found[1]}{repository}{found[2] or ''}@{branch}", text)
    return CLONED.sub(lambda found: found[1] + repository, text)


def rewrite_all(root, change):
    """Apply `change` to the text of every file; return the names of those that it changed."""
    changed = []
    for path in files(root):
        before = path.read_text(encoding="utf-8")
        after = changed_notebook(before, change) if path.suffix == ".ipynb" else change(before)
        if after != before:
            write_text(after, path)
            changed.append(path.relative_to(root).as_posix())
    return changed


def files(root):
    """Return the text files of the course, without the table, in order."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED)
        found += [Path(folder) / name for name in sorted(names) if Path(name).suffix in KINDS]
    return [path for path in found if path != Path(root) / TABLE]


def changed_notebook(text, change):
    """Return a notebook's text with `change` applied to the source of each cell; outputs stay as they are."""
    notebook, touched = json.loads(text), False
    for cell in notebook["cells"]:
        before = "".join(cell["source"])
        after = change(before)
        if after != before:
            cell["source"], touched = after.splitlines(keepends=True), True
    return notebook_text(notebook) if touched else text


def problems(root):
    """Return one line for each place that disagrees with the table."""
    course, found = load(root), []
    for path in files(root):
        name = path.relative_to(root).as_posix()
        wrong = [problem for text in sources(path) for problem in disagreements(text, course, root)]
        if path.suffix in (".md", ".ipynb"):
            wrong += [problem for text in sources(path) for problem in strays(text, course)]
        if path.suffix == ".ipynb" and f"<!-- launch: {name} -->" not in first_markdown(path):
            wrong.append(f"its first Markdown cell has no block <!-- launch: {name} --> <!-- /launch -->")
        found += [f"{name}: {problem}" for problem in wrong]
    return found


def sources(path):
    """Return the texts of a file: the whole, or the cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return [text]
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"]]


def first_markdown(path):
    """Return the source of a notebook's first Markdown cell."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return next(("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"), "")


def disagreements(text, course, root):
    """Return what in `text` is not as the table has it."""
    found = []
    for block in BLOCK.finditer(text):
        if block[0] != rewritten(block[0], course):
            found.append(f"the launch links of {block[2]} are not those of {TABLE}")
        if not (Path(root) / block[2]).is_file():
            found.append(f"the launch links name {block[2]}, which does not exist")
    for pattern in (INSTALLED, CLONED):
        addresses = [address[0] for address in pattern.finditer(text)]
        wrong = [address for address in addresses if address != rewritten(address, course)]
        found += [f"{address} is not the repository's address" for address in wrong]
    return found


def strays(text, course):
    """Return the launch links that stand outside a block, where nothing keeps them true."""
    rest = BLOCK.sub("", text)
    hosts = [host["url"].split("{")[0] for host in course["hosts"]]
    return [f"a link to {host} stands outside a launch block" for host in hosts if host in rest]


if __name__ == "__main__":
    sys.exit(main())
