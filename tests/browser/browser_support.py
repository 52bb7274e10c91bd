"""A real Chromium without a window, and hosts in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # it does not start for root otherwise
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,950",
)


class SomeHost:
    """A host in a process of its own."""

    def __init__(self, **options: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.browser.some_host", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        said = self._read()
        self.address: str = said["address"]
        self.url = f"http://{said['admin']}/"

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the host's process has ended"
        return json.loads(line)

    def do(self, **order: Any) -> Any:
        """Have it do something; returns what it says."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._read()["done"]

    def kill(self) -> None:
        """End it at once, without a goodbye."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class SomeCluster:
    """Hosts that know each other; a context manager."""

    def __init__(self, names: str = "abc", **options: Any) -> None:
        self.hosts: dict[str, SomeHost] = {}
        self._names, self._options = names, options

    def __enter__(self) -> Self:
        for name in self._names:
            self.hosts[name] = SomeHost(host_id=name, listen="127.0.0.1:0", idle_timeout=3600, **self._options)
        if "dsn" not in self._options:  # which tells them of each other
            peers = {name: host.address for name, host in self.hosts.items()}
            for host in self.hosts.values():
                host.do(peers=peers)
        return self

    def __getitem__(self, name: str) -> SomeHost:
        return self.hosts[name]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts.values():
            host.kill()


def needed(*names: str) -> str:
    """Return the path of the first program that there is; in CI it has to be there."""
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    text = f"no {names[0]} found: the dashboard's tests need it (Debian: apt-get install chromium chromium-driver)"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


@contextmanager
def chromium() -> Iterator[Chrome]:
    """Start the browser."""
    browser, driver = needed("chromium", "chromium-browser", "google-chrome"), needed("chromedriver")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()
