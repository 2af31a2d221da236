"""What becomes of the traits of ``c.KubeSpawner`` that do not shape a pod. Names only. Pure.

Every other trait of KubeSpawner is applied to the pods and to what belongs to them; see ADR 0009.
Source: kubespawner 7.1, jupyterhub 6.1.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["OF_A_POD", "OF_THE_HUB", "REPLACED", "instead"]

# Traits of every spawner that the hub asks for: `QHubSpawner` takes them from ``c.KubeSpawner``,
# where neither its own section nor batchspawner's says anything.
OF_THE_HUB = frozenset(
    {
        "auth_state_hook",
        "consecutive_failure_limit",
        "group_overrides",
        "http_timeout",
        "oauth_client_allowed_scopes",
        "oauth_roles",
        "options_form",
        "options_from_form",
        "poll_interval",
        "poll_jitter",
        "post_stop_hook",
        "pre_spawn_hook",
        "progress_ready_hook",
        "server_token_scopes",
        "ssl_alt_names_include_local",
        # only for what Kubernetes alone may start, see `inherited.fit_start_timeout`
        "start_timeout",
    }
)

# Traits of every spawner that shape a pod: a hook or ``group_overrides`` may set them for a server.
OF_A_POD = (
    *("args", "cmd", "cpu_guarantee", "cpu_limit", "debug", "default_url", "disable_user_config"),
    *("env_keep", "mem_guarantee", "mem_limit", "notebook_dir"),
)

_OUR_PAGE = "the options page is qhub's; c.QHubSpawner.profiles says what is on it"
_OUR_REQUESTS = "c.KubernetesBackend.request_timeout is how long one request may take"
_OUR_WATCH = "one watch of the whole hub reads pods and events, and nothing need be set"
_OUR_WORDS = "people read on what a start waits from the first second, and nothing need be set"
_OUR_CLAIMS = "a claim has the name that c.KubeSpawner.pvc_name_template and slug_scheme give it"
# Traits that have no effect, and what does the same.
REPLACED: Mapping[str, str] = {
    "additional_profile_form_template_paths": _OUR_PAGE,
    "apply_user_options": _OUR_PAGE,
    "delete_grace_period": "c.QHubSpawner.stop_grace is how long a server may take to end",
    "events_enabled": _OUR_WATCH,
    "handle_legacy_names": _OUR_CLAIMS,
    "k8s_api_request_retry_timeout": _OUR_REQUESTS,
    "k8s_api_request_timeout": _OUR_REQUESTS,
    "k8s_api_threadpool_workers": _OUR_WATCH,
    "profile_form_template": _OUR_PAGE,
    "profile_list": "c.QHubSpawner.profiles is the list; qhub-spawner convert makes it of this one",
    "remember_pvc_name": _OUR_CLAIMS,
    "slow_spawn_message": _OUR_WORDS,
    "slow_spawn_message_frequency": _OUR_WORDS,
    "slow_spawn_message_threshold": _OUR_WORDS,
}


def instead(trait: str) -> str:
    """Return what to use where a profile sets a trait that has no effect there; empty if it has."""
    if trait in OF_THE_HUB:
        return f"set c.QHubSpawner.{trait} for the whole hub"
    return REPLACED.get(trait, "")
