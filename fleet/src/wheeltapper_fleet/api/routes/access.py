"""Routes of access: who one is, API tokens, and what was changed."""

from __future__ import annotations

from fastapi import APIRouter

from wheeltapper_fleet.access import tokens
from wheeltapper_fleet.access.schemas import ApiTokenView, NewApiToken, WhoView
from wheeltapper_fleet.api import schemas
from wheeltapper_fleet.api.context import Context, Requester, Who
from wheeltapper_fleet.api.parameters import After, Key, Limit
from wheeltapper_fleet.audit.schemas import ChainView, ChangeView
from wheeltapper_fleet.audit.store import list_changes, show_chain
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.ground.request import note_subject

__all__ = ["router"]

router = APIRouter()


@router.get("/who")
def show_requester(requester: Requester) -> WhoView:
    """Who makes the request, and what it may do."""
    return WhoView(
        name=requester.name,
        via=requester.via,
        roles=sorted(requester.roles),
        permissions=requester.having,
        scope=requester.scope,
    )


@router.post("/api-tokens", status_code=201)
def create_api_token(body: schemas.ApiTokenRequest, context: Context, who: Who) -> NewApiToken:
    """Make an API token. Its secret is in the answer and nowhere else."""
    now = context.clock()
    ends = None if body.ttl_seconds is None else now + body.ttl_seconds
    made = tokens.create_api_token(
        context.engine,
        body.name,
        body.roles,
        expires_at=ends,
        who=who,
        now=now,
        permissions=body.permissions,
        scope=body.scope,
    )
    note_subject(token=made.id, name=made.name, roles=" ".join(made.roles))
    if made.scope or made.permissions is not None:
        note_subject(scope=made.scope or "all devices", permissions=" ".join(made.permissions or ["all of its roles"]))
    return made


@router.get("/api-tokens")
def list_api_tokens(context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[ApiTokenView]:
    """API tokens, newest first, also those that were revoked."""
    return tokens.list_api_tokens(context.engine, limit, after)


@router.post("/api-tokens/{token}/revoke", status_code=204)
def revoke_api_token(token: Key, context: Context, who: Who) -> None:
    """Revoke an API token: from now on it is refused."""
    tokens.revoke_api_token(context.engine, token, who=who, now=context.clock())


@router.get("/audit")
def list_audit(context: Context, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[ChangeView]:
    """What was changed, by whom and when, newest first; also what somebody was forbidden to do."""
    return list_changes(context.engine, limit, after)


@router.get("/audit-chain")
def show_audit_chain(context: Context) -> ChainView:
    """The newest digest of the chain of changes, and where it was cut. Who keeps it elsewhere can tell later that no
    change before it was rewritten."""
    return show_chain(context.engine)
