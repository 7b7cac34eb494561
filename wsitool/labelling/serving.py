"""Running the labelling page until it is stopped."""

from __future__ import annotations

from wsitool.labelling.opening import learning_meanwhile
from wsitool.labelling.session import Session
from wsitool.viewer.serving import Say, check_access, extra_installed, run_app

__all__ = ["check_serving", "serve"]


def check_serving(host: str, token: str | None) -> None:
    """UsageError for what would stop `serve`, before any feature is computed."""
    with extra_installed("label"):
        from wsitool.labelling.app import make_app  # noqa: F401
    check_access(host, token)


def serve(
    session: Session,
    *,
    annotator: str | None,
    host: str,
    port: int,
    token: str | None,
    browser: bool,
    say: Say,
) -> None:
    """Serve the page of a session until SIGINT or SIGTERM, with the probe learning meanwhile.

    Raises what `run_app` does.
    """
    from wsitool.labelling.app import make_app

    said = f"{len(session.labels()):,} of {len(session):,} patches are labelled"
    with learning_meanwhile(session):
        run_app(
            make_app(session, annotator=annotator),
            said,
            host=host,
            port=port,
            token=token,
            browser=browser,
            say=say,
            cookie="wsitool-label",
            may_change=True,
        )
