"""A call served by the published model, at a size for tests: from files in the published layout to a recording."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import av
import pytest
import torch
import yaml

from avatar_rtc import resources
from avatar_rtc.app import Server, make_engine
from avatar_rtc.config import load_config
from avatar_rtc.say import say
from testkit.published_files import TINY, write_config, write_published_files


async def test_a_call_is_recorded_with_both_tracks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "avatar_rtc.engine")
    write_published_files(tmp_path / "weights", TINY, dtype=torch.float32)
    write_config(tmp_path / "tiny.yaml", TINY)
    shipped = yaml.safe_load(resources.server_config("hallo_live_1gpu").read_text())
    shipped["engine"]["hallo_live"] = {"weights_dir": "weights", "network": "tiny.yaml", "devices": ["cpu"]}
    shipped["http"] = {"port": 0}
    (tmp_path / "server.yaml").write_text(yaml.safe_dump(shipped))
    config = load_config(tmp_path / "server.yaml")
    server = Server(config, make_engine(config))
    told: dict[str, None] = {}
    starting = asyncio.create_task(server.start())
    async with aiohttp.ClientSession() as http:
        while not starting.done():
            await asyncio.sleep(0.01)
            if server.address:
                async with http.get(f"{server.address}/readyz") as response:
                    told |= dict.fromkeys((await response.json(content_type=None)).get("reasons", ()))
        await starting
        try:
            report = await say(server.address, ["Hello there."], record=tmp_path / "call.mp4")
            async with http.get(f"{server.address}/metrics") as response:
                metrics = await response.text()
        finally:
            await server.close()
    assert all(reason.startswith("The engine is starting: ") for reason in told), "not ready before it is warm"
    assert any("warming up" in reason for reason in told)
    logged = " | ".join(caplog.messages)
    warm = re.search(r"loading the decoders .* loading the transformer .* warming up .* real-time factor (\S+)", logged)
    assert warm
    assert float(warm[1]) > 0
    for name in ('avatar_rtc_engine_rtf{percentile="50"}', "avatar_rtc_rtf_count"):
        factor = re.search(rf"^{re.escape(name)} (\S+)$", metrics, re.MULTILINE)
        assert factor
        assert float(factor[1]) > 0
    assert [line.status for line in report.lines] == ["completed"]
    assert report.lines[0].heard_text == "Hello there."
    assert (report.width_px, report.height_px) == (TINY.geometry.width_px, TINY.geometry.height_px)
    with av.open(str(tmp_path / "call.mp4")) as film:
        video, audio = film.streams.video[0], film.streams.audio[0]
        seconds = [float(stream.duration * stream.time_base) for stream in (video, audio)]  # type: ignore[operator]
    assert abs(seconds[0] - seconds[1]) < 0.04
    assert seconds[0] > 1.5
