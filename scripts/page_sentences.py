"""Sentences on the page under load, from results/page-load.json."""

from __future__ import annotations

from typing import Any


def sentences(found: dict[str, Any]) -> str:
    """What docs/app.md says was measured. found: what scripts/page_load.py wrote."""
    crowd, long, strangers, alone = (found[case] for case in ("crowd", "long", "strangers", "one_visitor"))
    refused = strangers["requests_for_files"] + strangers["requests_that_name_a_file_or_an_address_as_the_upload"]
    leaked = len(strangers["not_refused"])
    return " ".join(
        (
            f"Of {crowd['visitors']} visitors who uploaded a clip at once, "
            f"{crowd['with_the_answer_to_their_own_clip']} got the answer to their own clip, after "
            f"{crowd['median_seconds']:.0f} s (median; the last after {crowd['seconds'][-1]:.0f} s), since sounds are "
            f"heard one by one. The server's memory peaked at {crowd['peak_megabytes']} MB, and at "
            f"{alone['peak_megabytes']} MB with one visitor.",
            f"A file of {long['minutes'] / 60:g} hours ({long['upload_megabytes']} MB of FLAC) took "
            f"{long['seconds'] / 60:.0f} minutes, with its progress shown, and {long['peak_megabytes']} MB at most.",
            f"Of {refused:,} requests for other files of the machine, for uploads of others and for addresses, "
            f"{refused - leaked:,} were refused.",
            f"Measured with one thread on two cores that had other work too: `{found['command']}`.",
        )
    )
