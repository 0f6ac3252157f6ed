"""Every source of Fashion-MNIST, really used, gives the same images; none of them hangs.

The network's address is played by a proxy on this machine. What it serves are the published files,
byte for byte, so TFDS's own download code and checksums are at work.
"""

from __future__ import annotations

import multiprocessing
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from mlpipeline.errors import SourceError
from mlpipeline.learning.data import Dataset, debian
from mlpipeline.learning.data import fashion_mnist as module
from mlpipeline.learning.data.fashion_mnist import fashion_mnist

# When the published files were compressed. Debian's are the same but for this, and the name.
_MODIFIED = {
    "train-images-idx3-ubyte.gz": 1504176606,
    "train-labels-idx1-ubyte.gz": 1504176606,
    "t10k-images-idx3-ubyte.gz": 1504176627,
    "t10k-labels-idx1-ubyte.gz": 1504176627,
}

Proxy = Callable[..., AbstractContextManager[None]]


def published_file(path: Path) -> bytes:
    """The file as it is published, from Debian's: with a time and a name in its gzip header."""
    header = struct.pack("<4BI2B", 0x1F, 0x8B, 8, 8, _MODIFIED[path.name], 0, 3)
    return header + path.stem.encode() + b"\0" + path.read_bytes()[10:]


@pytest.fixture(scope="module")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache into which Debian's package was really fetched."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        assert_is_fashion_mnist(fashion_mnist("debian"), source="Debian")
    return folder


@pytest.fixture(scope="module")
def idx_folder(cache_home: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_home))
        return debian.fetch()


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLPIPELINE_IDX_DIR", str(tmp_path / "idx"))


@pytest.fixture
def proxy(idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    @contextmanager
    def serve(*, stalls_at: str = "never") -> Iterator[None]:
        never = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                if self.command == stalls_at:
                    never.wait()
                    return
                content = published_file(idx_folder / self.path.rpartition("/")[2])
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever).start()
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
            try:
                yield
            finally:
                never.set()
                server.shutdown()

    return serve


def assert_is_fashion_mnist(dataset: Dataset, *, source: str) -> None:
    """The digest of its content was checked before it was returned."""
    assert source in dataset.source
    assert not dataset.synthetic
    assert np.bincount(dataset.train.labels).tolist() == [6_000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1_000] * 10
    assert dataset.train.images.shape == (60_000, 28, 28)


def test_idx_files(idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPIPELINE_IDX_DIR", str(idx_folder))
    assert_is_fashion_mnist(fashion_mnist("idx"), source=str(idx_folder))


def test_a_package_fetched_before_needs_no_network(
    cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
    monkeypatch.setenv("PATH", "")
    assert_is_fashion_mnist(fashion_mnist("debian"), source="Debian")


def test_downloaded_once_by_tfds_then_found(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy():
        assert_is_fashion_mnist(fashion_mnist("auto"), source=str(tmp_path / "tfds"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert_is_fashion_mnist(fashion_mnist("auto"), source=str(tmp_path / "tfds"))


@pytest.mark.parametrize(("stalls_at", "reason"), [("HEAD", "timed out"), ("GET", "TimeoutError")])
def test_a_download_that_stalls_ends(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, stalls_at: str, reason: str
) -> None:
    monkeypatch.setattr(module, "_PROBE_SECONDS", 2)
    monkeypatch.setattr(module, "_DOWNLOAD_SECONDS", 10)
    with proxy(stalls_at=stalls_at), pytest.raises(SourceError, match=reason):
        fashion_mnist("download")
    assert multiprocessing.active_children() == []


def test_without_network_the_files_on_disk_are_used(
    idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("MLPIPELINE_IDX_DIR", str(idx_folder))
    assert_is_fashion_mnist(fashion_mnist("auto"), source="IDX")
