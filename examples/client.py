"""Calls a server that `stellar-hub serve` has started, with nothing but the standard library, NumPy and safetensors.

    stellar-hub serve --port 8000
    python examples/client.py examples/images/cat.jpg examples/images/coffee.jpg

The script encodes the images, compares them by their vectors, and writes the first one, decoded from its tokens, to
decoded.png. If the server asks for a key, set the environment variable STELLAR_HUB_API_KEY.
"""

import argparse
import base64
import json
import os
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from safetensors.numpy import load, save


class Client:
    """A client of one server.

    Args:
        url: Address of the server.
        key: Key of the server; None sends none.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", key: str | None = None):
        self.url = url.rstrip("/")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def encode(self, paths: list[Path], outputs: str = "S,L") -> dict[str, np.ndarray]:
        """Returns arrays of images: `semantics` (B, r, d), `localization` (B, n, r), and what else `outputs` names."""
        body = json.dumps({"images": [data_url(path) for path in paths]}).encode()
        return load(self._post(f"/encode?outputs={outputs}", body, "application/json", "application/safetensors"))

    def embed(self, paths: list[Path]) -> np.ndarray:
        """Returns one vector of length 1 per image, (B, d)."""
        body = json.dumps({"input": [data_url(path) for path in paths]}).encode()
        answer = json.loads(self._post("/v1/embeddings", body, "application/json", "application/json"))
        return np.array([item["embedding"] for item in answer["data"]], dtype=np.float32)

    def decode(self, semantics: np.ndarray, localization: np.ndarray) -> bytes:
        """Returns one image as a PNG, decoded from its tokens (r, d) and their places (n, r); the grid is square."""
        body = save({"semantics": semantics[None], "localization": localization[None]})
        return self._post("/decode", body, "application/safetensors", "image/png")

    def _post(self, path: str, body: bytes, kind: str, accept: str) -> bytes:
        headers = {"Content-Type": kind, "Accept": accept, **self.headers}
        try:
            with urlopen(Request(self.url + path, body, headers), timeout=120) as answer:
                return bytes(answer.read())
        except HTTPError as error:
            raise SystemExit(f"{error.code}: {json.load(error)['error']['message']}") from None


def data_url(path: Path) -> str:
    """Returns an image file as a data URL; the server looks at its content, whatever type the URL names."""
    return f"data:image/*;base64,{base64.b64encode(path.read_bytes()).decode()}"


def main(arguments: list[str] | None = None) -> None:
    """Encodes, compares and decodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path, help="image files")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the server (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("decoded.png"), help="image to write")
    options = parser.parse_args(arguments)
    client = Client(options.url, os.environ.get("STELLAR_HUB_API_KEY"))
    codes, vectors = client.encode(options.images), client.embed(options.images)
    print("S", codes["semantics"].shape, "L", codes["localization"].shape)
    for path, similarity in zip(options.images, vectors @ vectors[0], strict=True):
        print(f"{path.name}: cosine similarity with {options.images[0].name} {similarity:.3f}")
    options.output.write_bytes(client.decode(codes["semantics"][0], codes["localization"][0]))


if __name__ == "__main__":
    main()
