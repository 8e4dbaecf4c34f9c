"""
GCS faults: what the failures of google-cloud-storage mean.

They come in three families (the API's answers, credentials, the network) and a few strays. None gets past `fault_of`,
which gives each a sentence and a remedy and never quotes a URL.
"""

from typing import Any

from daemon.adapters.answers import one_line
from daemon.rules.faults import Blame, Fault, Gate, Outlook

CONSOLE = "https://console.cloud.google.com/storage"


def foreign() -> tuple[type[Exception], ...]:
    """All that the library raises for reasons outside this program; imports it."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
    from urllib3.exceptions import HTTPError

    return (GoogleAPIError, GoogleAuthError, InvalidResponse, DataCorruption, HTTPError, OSError, ValueError)


def fault_of(error: Any, bucket: str) -> Fault:
    """The fault behind a foreign exception; requests' own are OSErrors."""
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
    from google.cloud.storage.exceptions import InvalidResponse

    if isinstance(error, RetryError) and error.cause is not None:
        return fault_of(error.cause, bucket)
    if isinstance(error, GoogleAPICallError):
        return _answered(int(error.code or 0), bucket, _detail(error))
    if isinstance(error, InvalidResponse):
        return _answered(int(error.response.status_code), bucket, "")
    if isinstance(error, DefaultCredentialsError):
        return _fault(
            "No usable Google credentials were found.",
            "Give [storage] credentials_file the key of a service account, or set up application default credentials.",
        )
    if isinstance(error, GoogleAuthError) and "signBlob" in str(error):
        return _fault(
            "Google refuses to sign URLs for this account.",
            'Give the account the role "Service Account Token Creator" on itself, and enable the IAM Credentials API.',
        )
    if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError) and not error.retryable:
        return _fault(
            "Google does not accept the credentials.",
            "Look at the clock of this machine, and whether the service account and its key still exist.",
        )
    return _fault(
        f"Google Cloud Storage cannot be reached ({type(error).__name__}).",
        "Look at the network, the DNS settings and the proxy of this machine; it goes on by itself when they work.",
        Outlook.PASSING,
    )


def _answered(status: int, bucket: str, detail: str) -> Fault:
    because = f": {detail}" if detail else "."
    if status == 404:
        return _fault(f'The bucket "{bucket}" does not exist.', f"Make it at {CONSOLE}, or correct [storage] bucket.")
    if status == 401:
        return _fault("Google does not accept the credentials (401).", "Look at [storage] credentials_file.")
    if status == 403:
        return _fault(
            f'Google Cloud Storage refuses access to the bucket "{bucket}" (403){because}',
            'Give the account the role "Storage Object User" on the bucket, and look whether billing is on.',
        )
    if status in (408, 429) or status >= 500:
        return _fault(f"Google Cloud Storage has a fault of its own ({status}).", "", Outlook.PASSING)
    return _fault(f"Google Cloud Storage refused ({status}){because}", "Look at bucket and prefix under [storage].")


def _detail(error: Any) -> str:
    """Google's own sentence, without the address that the library puts before it."""
    try:
        return one_line(str(error.response.json()["error"]["message"]))
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""


def _fault(said: str, remedy: str, outlook: Outlook = Outlook.LASTING) -> Fault:
    return Fault(said, blame=Blame.SERVICE, outlook=outlook, remedy=remedy, gate=Gate.STORAGE)
