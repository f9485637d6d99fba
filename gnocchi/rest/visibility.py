"""Which rows a caller may see: a rule of the policy as a condition on rows, so that lists need not ask for each row.

The tree of checks is translated as it stands, with the caller's credentials put in.  What SQL cannot tell (a check of
another kind, a name of the target that is no field) hides the row, also below a `not`.
"""

import ast
import re
from collections.abc import Mapping
from typing import Any

from oslo_policy import policy

from gnocchi.exceptions import NoSuchResource
from gnocchi.indexer import Resource
from gnocchi.indexer.filters import (
    SHOWN_PROJECT,
    SHOWN_USER,
    AllOf,
    AnyOf,
    Comparison,
    Constant,
    Filter,
    Membership,
    Not,
)
from gnocchi.rest import errors, formats
from gnocchi.rest.policy import CONSTANT_CHECKS, MATCHING_CHECKS
from gnocchi.rest.request import Request

#: Names of a policy's target that are text fields of rows, in lists of resources.
RESOURCE_FIELDS = {name: name for name in ("type", "creator", "user_id", "project_id", "original_resource_id")} | {
    "created_by_user_id": SHOWN_USER, "created_by_project_id": SHOWN_PROJECT}

#: The same in lists of metrics: the resource's fields stand below `resource.`.
METRIC_FIELDS = {
    "creator": "creator", "name": "name", "unit": "unit", "created_by_user_id": SHOWN_USER,
    "created_by_project_id": SHOWN_PROJECT,
    **{f"resource.{name}": f"resource.{field}" for name, field in RESOURCE_FIELDS.items()}}

_PARAMETER = re.compile(r"%\(([^)]*)\)s")

TRUE, FALSE = Constant(True), Constant(False)


def list_visible(request: Request, rule: str, fields: Mapping[str, str] = RESOURCE_FIELDS) -> Filter | None:
    """Return the condition on rows that a list shows to the caller; None: it shows all.

    Raises errors.RequestError 403 if no row could ever be seen.
    """
    if not request.services.auth.hides_rows:
        return None
    return require_permitted(request, rule, fields)


def enforce_get(request: Request, resource: Resource) -> None:
    """Ask whether the caller may see a resource and its metrics.

    Where lists hide rows, what somebody may not see does not exist for him, unless he may see nothing at all.

    Raises NoSuchResource, errors.RequestError 403.
    """
    services, rule = request.services, "get resource"
    if services.policy.allows(rule, formats.format_resource(resource), request.identity.credentials):
        return
    if services.auth.hides_rows:
        require_permitted(request, rule)
        raise NoSuchResource(resource.id)
    raise errors.RequestError(403)


def require_permitted(request: Request, rule: str, fields: Mapping[str, str] = RESOURCE_FIELDS) -> Filter | None:
    """Return the condition on rows for which a rule allows something, in every authentication mode.

    None: all rows.  Raises errors.RequestError 403 if there can be none.
    """
    rules = request.services.policy.rules
    found = _translate_rule(rule, rules, request.identity.credentials, fields, True)
    if found == FALSE:
        raise errors.RequestError(403, "Insufficient privileges")
    return None if found == TRUE else found


def translate(check: Any, rules: Mapping[str, Any], credentials: Mapping[str, Any], fields: Mapping[str, str],
              positive: bool = True) -> Filter:
    """Return the condition on rows for which a tree of checks holds.

    positive : whether an even number of negations surround it; what cannot be told hides the row either way
    """
    if isinstance(check, policy.OrCheck):
        return _any_of([translate(each, rules, credentials, fields, positive) for each in check.rules])
    if isinstance(check, policy.AndCheck):
        return _all_of([translate(each, rules, credentials, fields, positive) for each in check.rules])
    if isinstance(check, policy.NotCheck):
        found = translate(check.rule, rules, credentials, fields, not positive)
        return Constant(not found.value) if isinstance(found, Constant) else Not(found)
    if isinstance(check, policy.RuleCheck):
        return _translate_rule(check.match, rules, credentials, fields, positive)
    if type(check) in CONSTANT_CHECKS:
        return Constant(str(check) == "@")
    if type(check) in MATCHING_CHECKS:
        return _translate_match(check, credentials, fields, positive)
    return Constant(not positive)


def _translate_rule(rule: str, rules: Mapping[str, Any], credentials: Mapping[str, Any], fields: Mapping[str, str],
                    positive: bool) -> Filter:
    try:
        check = rules[rule]
    except KeyError:
        return FALSE
    return translate(check, rules, credentials, fields, positive)


def _translate_match(check: Any, credentials: Mapping[str, Any], fields: Mapping[str, str], positive: bool) -> Filter:
    values = _credential_values(check, credentials)
    if "%" not in check.match:
        return Constant((check.match.lower() if check.kind == "role" else check.match) in values)
    parameter = _PARAMETER.fullmatch(check.match)
    if parameter is None or parameter[1] not in fields or check.kind == "role":
        return Constant(not positive)
    if not values:
        return FALSE
    field = fields[parameter[1]]
    # A field that is not set makes the check false, not unknown: so its negation holds.
    return AllOf((Comparison(field, "!=", None), Membership(field, tuple(dict.fromkeys(values)))))


def _credential_values(check: Any, credentials: Mapping[str, Any]) -> list[str]:
    """The texts that a check compares with its `match`, as oslo.policy finds them."""
    if check.kind == "role":
        return [str(role).lower() for role in credentials.get("roles", ())]
    try:
        return [str(ast.literal_eval(check.kind))]
    except (ValueError, SyntaxError):
        pass
    found: Any = credentials
    for name in check.kind.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return []
        found = found[name]
    return [str(value) for value in found] if isinstance(found, (list, tuple)) else [str(found)]


def _all_of(filters: list[Filter]) -> Filter:
    if FALSE in filters:
        return FALSE
    kept = tuple(each for each in filters if each != TRUE)
    return TRUE if not kept else kept[0] if len(kept) == 1 else AllOf(kept)


def _any_of(filters: list[Filter]) -> Filter:
    if TRUE in filters:
        return TRUE
    kept = tuple(each for each in filters if each != FALSE)
    return FALSE if not kept else kept[0] if len(kept) == 1 else AnyOf(kept)
