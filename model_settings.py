"""Read the settings from the environment and the ``.env`` file beside this module; refuse what is wrong, with words."""

from __future__ import annotations

import difflib
import ipaddress
import logging
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from metadata_path import default_metadata_file, resolve_metadata_file
from model_core.errors import CannotStart
from model_core.ollama_host import read_host

logger = logging.getLogger(__name__)

PREFIX = "MODEL_MANAGER_"
ENV_FILE = Path(__file__).resolve().with_name(".env")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

# Windows' own editor writes a byte order mark before the first variable's name.
_ENCODING = "utf-8-sig"
# A name as DNS allows it, also with the underscores that home networks have.
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*", re.ASCII)
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<place>[^/@\s?#]+)/?", re.ASCII)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach what listens on ``host``.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "photos.lan")]
    [True, True, True, False, False]
    """
    address = _address(host)
    return address.is_loopback if address else host == "localhost"


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _host(value: str) -> str:
    host = value.strip().lower().removeprefix("[").removesuffix("]")
    if address := _address(host):
        return str(address)
    # Digits and dots alone are a mistyped address, which DNS would refuse later and with other words.
    if not _HOST_NAME.fullmatch(host) or re.fullmatch(r"[\d.]+", host):
        raise ValueError("not a host")
    return host


def _host_and_port(value: str) -> str:
    host, colon, port = value.strip().rpartition(":")
    if not colon or value.endswith("]"):
        return _host(value)
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        raise ValueError("not a port")
    return f"{_host(host)}:{int(port)}"


def _origin(value: str) -> str:
    found = _ORIGIN.fullmatch(value.strip().lower())
    if not found:
        raise ValueError("not an origin")
    _host_and_port(found["place"])
    return f"{found['scheme']}://{found['place']}"


def _token(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("cannot stand in a header")
    return value


def _document(value: Any) -> Any:
    try:
        path = resolve_metadata_file(value)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    if path.is_dir():
        raise ValueError("is a folder")
    return path


Hosts = Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], NoDecode, BeforeValidator(_split)]
Registries = Annotated[tuple[Annotated[str, AfterValidator(_host_and_port)], ...], NoDecode, BeforeValidator(_split)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Everything that can be set from outside. A field's description says what is allowed; refusals quote it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file_encoding=_ENCODING,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        validate_default=True,
    )

    ollama_host: Annotated[str, AfterValidator(read_host)] = Field(
        default="127.0.0.1:11434",
        validation_alias="OLLAMA_HOST",
        description="where Ollama listens, as for Ollama itself: 127.0.0.1:11434, photo-server, https://photos.lan/ollama",
    )
    host: Annotated[str, AfterValidator(_host)] = Field(
        default="127.0.0.1", description="a host name or an address of this machine, without a port"
    )
    port: int = Field(default=5110, ge=0, le=65535, description="a port from 1 to 65535, or 0 for any that is free")
    metadata_file: Annotated[Path, BeforeValidator(_document)] = Field(
        default_factory=default_metadata_file,
        description="the path of a file, not of a folder; a relative one starts beside app.py",
    )
    token: Annotated[SecretStr, AfterValidator(_token)] | None = Field(
        default=None, description="visible ASCII characters without blanks"
    )
    allowed_hosts: Hosts = Field(
        default=(),
        description="host names or addresses without a port, separated by commas; loopback is always allowed",
    )
    allowed_origins: Origins = Field(
        default=(), description="origins such as http://localhost:3000, separated by commas; no path and no *"
    )
    allowed_registries: Registries = Field(
        default=("registry.ollama.ai", "hf.co"),
        description="hosts of model registries, separated by commas; they take the place of the usual two",
    )
    vram_gb: float | None = Field(
        default=None, ge=0, le=10_000, allow_inf_nan=False, description="graphics memory in GB, from 0 to 10000"
    )
    downloads: int = Field(default=1, ge=1, le=16, description="a whole number from 1 to 16")
    auto_resume: bool = Field(default=True, description="true or false (also 1, 0, yes, no)")
    threads: int = Field(default=256, ge=16, le=1024, description="a whole number from 16 to 1024")
    log: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        default="info", description="debug, info, warning or error"
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _with_what_is_always_allowed(cls, allowed: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        # The Host check stops pages that reach us under a name of their own (DNS rebinding). Nobody's page can call
        # itself a loopback name, or the one address that we listen on.
        host = info.data.get("host", "127.0.0.1")
        address = _address(host)
        own = () if address and address.is_unspecified else (host,)
        return tuple(dict.fromkeys((*LOOPBACK_NAMES, *own, *allowed)))

    @model_validator(mode="after")
    def _protected_beyond_loopback(self) -> Settings:
        if self.token is None and not is_loopback(self.host):
            raise CannotStart(
                f"{PREFIX}HOST is {self.host!r}: other machines could reach this service, and no token protects it.",
                f"Set {PREFIX}TOKEN to a secret of your own, or listen on 127.0.0.1.",
                variable=f"{PREFIX}TOKEN",
            )
        return self


def load_settings(env_file: Path | None = ENV_FILE, **given: Any) -> Settings:
    """Return the settings. ``given`` (by field name) wins over the environment, the environment over ``env_file``.

    Raises CannotStart: it names every variable that is wrong, the value (never a token's) and what is allowed.
    """
    try:
        _warn_of_unknown(env_file)
        return Settings(_env_file=env_file, **given)
    except ValidationError as error:
        raise _refusal(error, env_file) from None
    except (OSError, UnicodeError) as error:
        raise CannotStart(f"{env_file} cannot be read: {error}.", "Save it as UTF-8 text, or remove it.") from error


def variable_of(field: str) -> str:
    """Return the environment variable that sets a field.

    >>> variable_of("port"), variable_of("ollama_host")
    ('MODEL_MANAGER_PORT', 'OLLAMA_HOST')
    """
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else PREFIX + field.upper()


def _refusal(error: ValidationError, env_file: Path | None) -> CannotStart:
    lines, variables = [], []
    for problem in error.errors(include_url=False, include_context=False):
        place = str(problem["loc"][0])
        field = "ollama_host" if place == variable_of("ollama_host") else place
        variables.append(variable_of(field))
        shown = "(hidden)" if field == "token" else repr(_without_credentials(str(problem["input"])))
        lines.append(f"{variables[-1]} is {shown}. Allowed: {Settings.model_fields[field].description}.")
    where = f"the environment or in {env_file}" if env_file else "the environment"
    return CannotStart("\n".join(lines), f"Correct it in {where}.", variable=variables[0], variables=variables)


def _without_credentials(value: str) -> str:
    return re.sub(r"//[^/]*@", "//...@", value)


def _warn_of_unknown(env_file: Path | None) -> None:
    in_file = dotenv_values(env_file, encoding=_ENCODING) if env_file and env_file.is_file() else {}
    known = {variable_of(field) for field in Settings.model_fields}
    for name in sorted({name.upper() for name in (*os.environ, *in_file)} - known):
        if name.startswith(PREFIX):
            near = difflib.get_close_matches(name, known, n=1)
            logger.warning("setting ignored name=%s nearest=%s", name, near[0] if near else "none")
