"""Players that others wrote, in browsers: each plays a call, and what it decoded is counted.

Three WHEP clients from npm, on a page of another origin, which is told nothing but the address. ``npm`` fetches them once.

    python -m benchmarks.players --browsers chromium firefox-esr
"""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from avatar_rtc import resources
from benchmarks import machine, measurements
from testkit.browser import CHROMIUM_FLAGS, run_server

PACKAGES = ("whip-whep@1.2.0", "@binbat/whip-whep@1.1.1-sdp-trickle-throw", "@eyevinn/webrtc-player@0.13.0", "esbuild@0.25.0")
WATCH_S = 5
TIMEOUT_S = 60.0
VIEW = """import { WHEPClient } from "%s/whep.js";
export async function play(video, url) {
    const peer = new RTCPeerConnection();
    for (const kind of ["audio", "video"]) peer.addTransceiver(kind, { direction: "recvonly" });
    peer.ontrack = ({ streams: [stream] }) => (video.srcObject = stream);
    await new WHEPClient().view(peer, url, "");
}"""
PLAYERS = {
    "whip-whep": VIEW % "whip-whep",
    "@binbat/whip-whep": VIEW % "@binbat/whip-whep",
    "@eyevinn/webrtc-player": """import { WebRTCPlayer } from "@eyevinn/webrtc-player";
export async function play(video, url) {
    const player = new WebRTCPlayer({ video, type: "whep", iceServers: [] });
    await player.load(new URL(url));
}""",
}
PAGE = """<!doctype html><video autoplay playsinline></video><script type="module">
const Peer = window.RTCPeerConnection;
const peers = [];
window.RTCPeerConnection = class extends Peer {
    constructor(...given) {
        super(...given);
        peers.push(this);
    }
};
const video = document.querySelector("video");
let told;
try {
    const { play } = await import("./player.js");
    await play(video, "@URL@");
    await new Promise((resolve) => setTimeout(resolve, @WATCH_MS@));
    const report = await peers.at(-1).getStats();
    told = { width: video.videoWidth };
    for (const entry of report.values()) if (entry.type === "inbound-rtp") told[entry.kind] = entry;
} catch (error) {
    told = { error: String(error) };
}
fetch("result", { method: "POST", body: JSON.stringify(told) });
</script>"""
FIREFOX_PREFERENCES = {
    "media.autoplay.default": 0,
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
    "browser.shell.checkDefaultBrowser": False,
}


class _Handler(SimpleHTTPRequestHandler):
    """Gives files, and takes what a page tells."""

    def __init__(self, *given: Any, told: queue.Queue[dict[str, Any]], **others: Any) -> None:
        self._told = told
        super().__init__(*given, **others)

    def do_POST(self) -> None:
        self._told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def serving(directory: Path) -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    """Files, and the results that are posted; yields the address of the directory and where results come."""
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, told=told, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", told
    finally:
        server.shutdown()


def build(directory: Path, url: str) -> None:
    """A page a player, each in a directory of its own."""
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", *PACKAGES]
    subprocess.run(command, cwd=directory, check=True)
    for number, source in enumerate(PLAYERS.values()):
        page = directory / str(number)
        page.mkdir()
        (page / "source.js").write_text(source)
        bundle = ["npx", "esbuild", f"{number}/source.js", "--bundle", "--format=esm", f"--outfile={number}/player.js"]
        subprocess.run([*bundle, "--log-level=error"], cwd=directory, check=True)
        (page / "index.html").write_text(PAGE.replace("@URL@", f"{url}/whep").replace("@WATCH_MS@", str(WATCH_S * 1000)))


def command_of(browser: str, profile: Path, url: str) -> list[str]:
    """How a browser is started without a window."""
    program = shutil.which(browser)
    if program is None:
        raise SystemExit(f"there is no {browser} on this machine: apt-get install {browser}")
    if "firefox" in browser:
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in FIREFOX_PREFERENCES.items()]
        (profile / "user.js").write_text("\n".join(lines))
        return [program, "--headless", "--no-remote", "--profile", str(profile), url]
    return [program, "--headless=new", *CHROMIUM_FLAGS, f"--user-data-dir={profile}", url]


def play(browser: str, url: str, told: queue.Queue[dict[str, Any]]) -> dict[str, Any]:
    """What a player in a browser had decoded after ``WATCH_S``."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            command_of(browser, Path(profile), url), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            seen = told.get(timeout=TIMEOUT_S)
        except queue.Empty:
            seen = {"error": f"nothing was told within {TIMEOUT_S:.0f} s"}
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if "error" in seen:
        return seen
    video, audio = seen.get("video", {}), seen.get("audio", {})
    return {
        "width_px": seen["width"],
        "pictures": video.get("framesDecoded", 0),
        "sound_s": round(audio.get("totalSamplesReceived", 0) / 48_000, 2),
        "sound_packets": audio.get("packetsReceived", 0),
        "sound_energy": round(audio.get("totalAudioEnergy", 0.0), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browsers", nargs="+", default=["chromium", "firefox-esr"], help="programs (default: both)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    described = machine.describe(resources.num_cores())
    result: dict[str, Any] = {"watched_s": WATCH_S, "players": {}}
    with tempfile.TemporaryDirectory() as directory, run_server("fake", http={"allowed_origins": ["*"]}) as server:
        build(Path(directory), server.url)
        with serving(Path(directory)) as (url, told):
            for browser in options.browsers:
                for number, name in enumerate(PLAYERS):
                    row = play(browser, f"{url}/{number}/index.html", told)
                    result["players"][f"{name} in {browser}"] = row
                    print(f"{name} in {browser}: {row}", file=sys.stderr, flush=True)
        result["tracebacks"] = server.log().count("Traceback")
    if options.out:
        measurements.keep(options.out, "players", {"machine": described, **result})
    if options.json:
        print(json.dumps(result))
        return
    print(machine.headline(described))
    for name, row in result["players"].items():
        print(f"{name:40} {row}")
    print(f"the bar: in {WATCH_S} s each decodes pictures of 256 pixels and sound, and there is no traceback")


if __name__ == "__main__":
    main()
