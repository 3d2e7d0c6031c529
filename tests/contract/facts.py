"""What the contract suite takes for granted about the service that it talks to."""

TOKEN = "token-of-a-developer"
OTHER_TOKEN = "token-of-another-developer"
NO_PROJECTS = "token-without-projects"

PROJECT = "Acme/App"
OTHER_PROJECT = "Acme/Other-App"

LIMITS = {
    "MAX_UPLOAD_BYTES": "3000000",
    "MAX_KEYVALUE_BYTES": "100000",
    "MAX_GRADLE_BYTES": "4000000",
    "BODY_TIMEOUT": "120",
    "AUTH_FAILURE_TTL": "120",
}
"""Settings that the service runs with: limits small enough to go over, and time enough for all."""

HASTE = {
    "BODY_TIMEOUT": "0.5",
    "AUTH_SUCCESS_TTL": "1",
    "AUTH_FAILURE_TTL": "2",
    "AUTH_STALE_TTL": "3",
}
"""Settings of a service where little need be waited for."""
