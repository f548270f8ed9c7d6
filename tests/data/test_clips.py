"""Clips come out as one channel of numbers, or are refused before they cost memory."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.voices import voice
from vkdsurgeon.data.augment_clips import varied_clip
from vkdsurgeon.data.clips import Clip, check_clip, open_clip
from vkdsurgeon.data.media import MEDIA, medium_of
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.samples import Sample, records_digest, samples_of
from vkdsurgeon.errors import SurgeryError, UserError

RATE = 16_000


def save(path: Path, samples: np.ndarray | None = None, **options: str) -> Path:
    soundfile.write(path, voice(0, 0, rate=RATE) if samples is None else samples, RATE, **options)
    return path


@pytest.mark.parametrize(("name", "error"), [("a.wav", 1e-4), ("a.flac", 1e-4), ("a.mp3", 0.05), ("a.ogg", 0.05)])
def test_usual_formats_give_what_was_said(tmp_path: Path, name: str, error: float) -> None:
    path = save(tmp_path / name)
    clip = open_clip(path)
    said = voice(0, 0, rate=RATE)
    assert (clip.rate, clip.samples.dtype, len(clip.samples)) == (RATE, np.float32, len(said))
    assert np.sqrt(np.mean((clip.samples - said) ** 2)) < error
    assert check_clip(path, where="set:1") == (RATE, len(said))


def test_channels_are_averaged_and_the_name_need_not_be_right(tmp_path: Path) -> None:
    said = voice(0, 0, rate=RATE)
    path = save(tmp_path / "a.mp3", np.stack([said, np.zeros_like(said)], axis=1), format="WAV", subtype="FLOAT")
    np.testing.assert_allclose(open_clip(path).samples, said / 2, atol=1e-6)


def test_another_rate_keeps_the_pitch() -> None:
    time = np.arange(44_100) / 44_100
    clip = Clip(np.sin(2 * np.pi * 440 * time).astype(np.float32), 44_100).at(RATE)
    assert (clip.rate, len(clip.samples), clip.samples.dtype) == (RATE, RATE, np.float32)
    assert int(np.abs(np.fft.rfft(clip.samples)).argmax()) == 440


def _broken() -> dict[str, tuple[bytes, str]]:
    whole = io.BytesIO()
    soundfile.write(whole, voice(0, 0, rate=RATE), RATE, format="WAV")
    short, odd, slow = io.BytesIO(), io.BytesIO(), io.BytesIO()
    soundfile.write(short, np.zeros(RATE // 20), RATE, format="WAV")
    soundfile.write(odd, np.full(RATE, np.nan), RATE, format="WAV", subtype="FLOAT")
    soundfile.write(slow, np.zeros(1000), 100, format="WAV")
    mp3 = io.BytesIO()
    soundfile.write(mp3, voice(0, 0, rate=RATE, seconds=2.0), RATE, format="MP3")
    return {
        "empty": (b"", "cannot be decoded: The file is empty"),
        "text": (b"not a clip at all" * 9, "cannot be decoded: Format not recognised"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS pointer"),
        "half": (whole.getvalue()[:9000], "breaks off"),
        "half of an mp3": (mp3.getvalue()[: len(mp3.getvalue()) // 2], "breaks off"),
        "short": (short.getvalue(), "too short"),
        "no numbers": (odd.getvalue(), "no numbers"),
        "slow": (slow.getvalue(), "samples per second"),
    }


@pytest.mark.parametrize("kind", ["empty", "text", "pointer", "half", "half of an mp3", "short", "no numbers", "slow"])
def test_what_is_no_clip_is_told(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, message = _broken()[kind]
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        open_clip(path, where="set.jsonl:3")
    assert "set.jsonl:3" in str(caught.value)
    capfd.readouterr()


def test_a_clip_that_is_gone_or_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_clip(tmp_path / "a.wav")
    monkeypatch.setattr("vkdsurgeon.data.clips.MAX_SAMPLES", 1000)
    with pytest.raises(UserError, match="too long"):
        open_clip(save(tmp_path / "a.wav"))


def test_a_clip_must_stay_what_it_was(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(open_clip(path, digest=digest).samples)
    save(path, voice(1, 0, rate=RATE))
    with pytest.raises(SurgeryError, match="the clip changed while the run was under way"):
        open_clip(path, digest=digest)


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.wav")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match=r"pip install 'vkdsurgeon\[audio\]'"):
        open_clip(path)


def test_a_copy_is_a_little_different_and_always_the_same() -> None:
    clip = Clip(voice(0, 0, rate=RATE), RATE)
    first = Sample(Path("/a.wav"), "subject", "0123456789abcdef" * 4, "set:1", 1)
    copy, again = varied_clip(clip, first), varied_clip(clip, first)
    assert np.array_equal(copy.samples, again.samples)
    assert (len(copy.samples), copy.rate, copy.samples.dtype) == (len(clip.samples), RATE, np.float32)
    assert not np.array_equal(
        copy.samples, varied_clip(clip, Sample(Path("/a.wav"), "s", "f" * 64, "set:1", 1)).samples
    )
    # What carries a voice stays nearly where it was.
    spectra = [np.abs(np.fft.rfft(each.samples))[:600] for each in (clip, copy)]
    assert np.corrcoef(*(np.convolve(each, np.ones(20), "same") for each in spectra))[0, 1] > 0.8


def test_records_name_clips_in_every_shape(tmp_path: Path) -> None:
    save(tmp_path / "a.wav")
    rows: dict[str, list[dict[str, object]]] = {
        "flat": [{"audio": "a.wav", "question": "Who speaks?", "answer": "Ada", "subject": "Ada"}],
        "llava": [
            {"audio": "a.wav", "conversations": [{"from": "human", "value": "<audio>\nWho speaks?"},
                                                 {"from": "gpt", "value": "Ada"}]}
        ],
        "chat": [
            {"messages": [
                {"role": "user", "content": [{"type": "audio", "audio_url": "a.wav"},
                                             {"type": "text", "text": "Who speaks?"}]},
                {"role": "assistant", "content": "Ada"},
            ]}
        ],
        "list": [{"audios": ["a.wav"], "question": "Who speaks?", "answer": "Ada"}],
    }  # fmt: skip
    for name, given in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
        (record,) = read_records(path, role="forget")
        assert (record.audio, record.image, record.question, record.answer) == (
            tmp_path / "a.wav", None, "Who speaks?", "Ada",
        )  # fmt: skip
        assert record.task == "vqa"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio": "b.wav"}, "the clip does not exist"),
        ({"audio": "a.txt"}, "ends in none of"),
        ({"image": "a.wav"}, "give a clip as `audio`"),
        ({"audio": "a.wav", "image": "a.png"}, "an image and a clip"),
        ({"sound": "a.wav", "question": "q"}, "did you mean 'audio'"),
        ({"audio": "https://a.org/a.wav"}, "the clip is a URL"),
        ({"conversations": [{"from": "human", "value": "<audio>q"}, {"from": "gpt", "value": "a"}]}, "names no clip"),
    ],
)
def test_what_is_wrong_with_a_record_is_told(tmp_path: Path, row: dict[str, object], message: str) -> None:
    for name in ("a.wav", "a.txt", "a.png"):
        (tmp_path / name).write_bytes(b"")
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(UserError, match=message):
        read_records(path, role="forget")


def test_a_folder_of_clips_is_a_set(tmp_path: Path) -> None:
    for name in ("Ada", "Bea"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "1.flac")
    (tmp_path / "Ada" / "notes.txt").write_text("-")
    records = read_records(tmp_path, role="forget")
    assert [(record.audio, record.subject) for record in records] == [
        (tmp_path / name / "1.flac", name) for name in ("Ada", "Bea")
    ]


def test_a_set_is_told_by_the_content_of_its_clips(tmp_path: Path) -> None:
    one, two = save(tmp_path / "a.wav"), save(tmp_path / "b.wav")
    records = [Record(audio=one, subject="Ada"), Record(audio=two, subject="Ada"), Record(question="q")]
    assert [sample.path for sample in samples_of(records, role="forget", modality="audio")] == [one]
    assert records_digest(records[:1]) == records_digest(records[1:2])
    save(two, voice(1, 0, rate=RATE))
    assert records_digest(records[:1]) != records_digest(records[1:2])
    assert len(samples_of(records, role="forget", modality="audio")) == 2
    assert medium_of(one) is MEDIA["audio"]
    assert medium_of(Path("a.png")) is MEDIA["image"]
