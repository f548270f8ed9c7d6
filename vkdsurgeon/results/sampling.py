"""What `vkdsurgeon sample` drew."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from vkdsurgeon.results.document import SchemaDocument


class SampleResult(SchemaDocument):
    """The document of `vkdsurgeon sample --json`.

    Attributes:
        records: The file to give as `--retain` or `--generic`.
        images: How many images were written.
        available: How many the shards hold.
        shards: How many shards there are.
        seed: Seed of the draw.
        broken: Drawn images that cannot be decoded, or that are empty; they were passed over.
        forgotten: Drawn images with the bytes, or of a subject, of an image of the forget set; passed over, too.
        undescribed: Images that were written without what the shard says of them, because that is no record.
    """

    SCHEMA: ClassVar[str] = "vkdsurgeon/sample/1"

    records: str
    images: int = Field(ge=1)
    available: int = Field(ge=1)
    shards: int = Field(ge=1)
    seed: int
    broken: int = Field(0, ge=0)
    forgotten: int = Field(0, ge=0)
    undescribed: int = Field(0, ge=0)
