from __future__ import annotations

import re
import subprocess

import httpx
import pytest

from serve_app.ingress.web.page import FILES, FOLDER
from tools.node_packages import node


async def test_the_page_is_at_the_root(http: httpx.AsyncClient) -> None:
    answer = await http.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.startswith("<!doctype html>")
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("name", FILES)
async def test_each_file_is_served_with_its_type_and_runs_nothing_from_elsewhere(
    http: httpx.AsyncClient, name: str
) -> None:
    answer = await http.get(f"/web/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == FILES[name]
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';") and "unsafe" not in policy


async def test_every_address_in_the_page_is_one_of_its_files(http: httpx.AsyncClient) -> None:
    page = (await http.get("/")).text
    named = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert named and all(name.removeprefix("web/") in FILES for name in named)
    for name in FILES:
        text = (FOLDER / name).read_text()
        assert all(imported in FILES for imported in re.findall(r'from "\./([^"]*)"', text))
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), name


def test_no_file_lies_there_that_is_not_served() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(FILES)


async def test_an_unchanged_file_is_not_sent_again(http: httpx.AsyncClient) -> None:
    first = await http.get("/web/page.js")
    again = await http.get("/web/page.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    changed = await http.get("/web/page.js", headers={"If-None-Match": '"other"'})
    assert changed.status_code == 200


@pytest.mark.parametrize("path", ["/web/", "/web/none.js", "/web/..%2fweb_page.py", "/web/%2e%2e/web_page.py"])
async def test_nothing_else_is_served(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 404


async def test_the_page_only_reads(http: httpx.AsyncClient) -> None:
    assert (await http.head("/")).status_code == 200
    assert (await http.post("/")).status_code == 405


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_scripts_are_well_formed_modules(name: str) -> None:
    command = [str(node()), "--check", "--input-type=module", "-"]
    done = subprocess.run(command, input=(FOLDER / name).read_bytes(), capture_output=True, timeout=20)
    assert done.returncode == 0, done.stderr.decode()
