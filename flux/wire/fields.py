"""The types of fields that several requests share, with their limits.

A value over a limit is ``too_large``; one that is empty or of another type is
``bad_request``.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

MAX_ID = 2**63 - 1

Ref = Annotated[str, Meta(max_length=64)] | Annotated[int, Meta(ge=-MAX_ID, le=MAX_ID)]
"""What a request and its reply are matched by."""

Id = Annotated[int, Meta(ge=1, le=MAX_ID)]
"""An account, chat or group; 0 in a default means: not given."""

UserId = Annotated[Id, Meta(extra={"wrong": "expected a user's id, an integer; user.search finds it"})]
GroupId = Annotated[Id, Meta(extra={"wrong": "expected a group's id, an integer; the request groups lists yours"})]
ChatId = Annotated[Id, Meta(extra={"wrong": "expected a chat's id, an integer; the request chats lists yours"})]
"""What a person wrongly gives a name for; ``wrong`` says where the number is found, on the chat port."""

Seq = Annotated[int, Meta(ge=0, le=MAX_ID)]
"""A message's number within its chat."""

Count = Annotated[int, Meta(ge=1, le=MAX_ID)]
"""How many are wanted; each request caps it."""

Text = Annotated[str, Meta(min_length=1, max_length=8000)]
Cid = Annotated[str, Meta(min_length=1, max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=50)]
Secret = Annotated[str, Meta(max_length=1024)]
Note = Annotated[str, Meta(max_length=200)]
Nick = Annotated[str, Meta(max_length=50)]
Description = Annotated[str, Meta(max_length=500)]
Sex = Annotated[str, Meta(max_length=20)]
Icon = Annotated[str, Meta(max_length=500)]
Email = Annotated[str, Meta(max_length=254)]
