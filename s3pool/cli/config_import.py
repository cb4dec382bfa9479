"""config import: other tools' aliases, remotes and profiles become profiles of ours."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from s3pool.cli import exit_codes
from s3pool.config.importers import ConfigPlace, FoundProfile, find_profiles
from s3pool.config.profile_writer import add_profiles, read_document
from s3pool.config.yaml_file import PROFILES

if TYPE_CHECKING:
    from s3pool.cli.context import Context

IMPORTED, REPLACED, UNCHANGED, KEPT = "imported", "replaced", "unchanged", "kept"


def import_profiles(args: Namespace, ctx: Context) -> int:
    """Write the profiles; one that is there with other settings is kept, without --force."""
    home = os.path.expanduser("~")
    path = ctx.config.config_file or os.path.join(home, ".s3pool", "config.yaml")
    document = read_document(path)
    known: Any = document.get(PROFILES) or ({"default": {}} if document else {})
    taken = {str(name): dict(settings or {}) for name, settings in known.items()}
    states: list[tuple[FoundProfile, str]] = []
    for found in find_profiles(args.tool or "", ConfigPlace(ctx.environ, home)):
        settings, is_ours = dict(found.settings), any(found.name == other.name for other, _ in states)
        state = IMPORTED if found.name not in taken else UNCHANGED if taken[found.name] == settings else KEPT
        if state == KEPT and args.force and not is_ours:
            state = REPLACED
        if state in (IMPORTED, REPLACED):
            taken[found.name] = settings
        states.append((found, state))
    changed = {found.name: found.settings for found, state in states if state in (IMPORTED, REPLACED)}
    if changed and not ctx.dry_run:
        add_profiles(path, changed)
    for found, state in states:
        _tell(found, state, path, ctx)
    if changed:
        note = f"{path}: use {next(iter(changed))}/BUCKET/KEY or --profile NAME, or set default_profile"
        ctx.out.note(f"s3pool: {note}", {"type": "note", "message": note})
    return exit_codes.SKIPPED if any(state == KEPT for _, state in states) else exit_codes.DONE


def _tell(found: FoundProfile, state: str, path: str, ctx: Context) -> None:
    url = str(found.settings.get("endpoints", ""))
    record = {"type": "profile", "name": found.name, "state": state, "tool": found.tool, "endpoints": url, "file": path}
    if state == KEPT:
        ctx.out.warn(
            f"the profile {found.name} of {found.file} is left out: there is one of this name; --force replaces it"
        )
    line = f"Profile {'would be ' if ctx.dry_run and state in (IMPORTED, REPLACED) else ''}{state}: {found.name}"
    ctx.out.result(ctx.out.escape(f"{line} ({found.tool}, {url})"), record)
