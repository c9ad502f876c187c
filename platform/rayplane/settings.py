"""Settings from the environment (RAYPLANE_*); one class per group."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pydantic import Field, IPvAnyNetwork, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rayplane.errors import InvalidInput


def find_home(start: Path | None = None) -> Path:
    """The home: RAYPLANE_HOME, else the nearest ``.rayplane/`` upward from ``start``, else ``~/.rayplane``."""
    named = os.environ.get("RAYPLANE_HOME")
    if named:
        return Path(named).expanduser().absolute()
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        if (folder / ".rayplane").is_dir():
            return folder / ".rayplane"
    return Path.home() / ".rayplane"


class Home:
    """Every path of one local platform's home, and the marker that its processes carry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = hashlib.sha256(str(path).encode()).hexdigest()[:10]
        """Marks this home's processes (environment variable RAYPLANE_MARK) and its short temporary folders."""

    @property
    def token(self) -> Path:
        """The local user's token (0600)."""
        return self.path / "token"

    @property
    def secrets(self) -> Path:
        """Folder (0700) of 0600 files."""
        return self.path / "secrets"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.path / "logs"

    @property
    def processes(self) -> Path:
        """One JSON record per process."""
        return self.path / "processes"

    @property
    def state(self) -> Path:
        """What `up` chose: ports and URLs, as JSON."""
        return self.path / "platform.json"

    @property
    def database(self) -> Path:
        """The gateway's SQLite file."""
        return self.path / "gateway.db"

    @property
    def storage(self) -> Path:
        """The default storage root."""
        return self.path / "storage"

    @property
    def kept_root(self) -> Path:
        """The storage root's URI, where a restore put this home beside a root that is not its default."""
        return self.path / "storage-root"

    @property
    def workflows(self) -> Path:
        """DBOS' SQLite file."""
        return self.path / "workflows.db"

    @property
    def uploads(self) -> Path:
        """Folder (0700) of what is being uploaded, in files without names."""
        return self.path / "uploads"

    @property
    def mlflow(self) -> Path:
        """The MLflow server's databases and configuration."""
        return self.path / "mlflow"

    @property
    def feast(self) -> Path:
        """Feast's SQL registry and online stores."""
        return self.path / "feast"

    def feast_online(self, project: str) -> Path:
        """The SQLite file of a Feast project's online store."""
        return self.feast / "online" / f"{project}.db"

    def placed_token(self, team: str, cluster: str) -> Path:
        """The 0600 file that an admin places for a cluster that others run: its Ray token, and for which address."""
        return self.secrets / "clusters" / f"{team}.{cluster}.ray"

    @property
    def local_users(self) -> Path:
        """Which number the Unix user of each team has, as JSON."""
        return self.path / "local-users.json"

    @property
    def prometheus(self) -> Path:
        """Prometheus' configuration and data."""
        return self.path / "prometheus"


class GatewaySettings(BaseSettings):
    """What the gateway needs to run. Every secret is named by the path of a 0600 file."""

    model_config = SettingsConfigDict(env_prefix="RAYPLANE_", extra="ignore")

    home: Path = Field(default_factory=find_home)
    """Where state is kept."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8470, ge=1, le=65535)
    """Port to listen on."""
    public_url: str | None = None
    """URL by which clients and workers reach the gateway; default: http://host:port."""
    database_url: str | None = None
    """SQLAlchemy URL of the store; default: SQLite in the home."""
    workflow_database_url: str | None = None
    """SQLAlchemy URL of DBOS' own database; default: SQLite in the home."""
    storage_root: str | None = None
    """Root URI of everything big; default: what a restore noted in the home's file ``storage-root``, else file:// in
    the home."""
    mlflow_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of the MLflow server that `rayplane up` starts; default: a free one of this home's own."""
    mlflow_public_url: str | None = None
    """URL by which clients and workers reach the MLflow server that `rayplane up` starts; default: http://host:port."""
    mlflow_url: str | None = None
    """MLflow tracking server's URL; without it jobs are refused tracking."""
    mlflow_admin_path: Path | None = None
    """0600 file: MLflow admin's user name and password, one a line."""
    feast_registry_url: str | None = None
    """SQLAlchemy URL of Feast's SQL registry; default: SQLite in the home."""
    prometheus_url: str | None = None
    """Prometheus' URL, published to clients."""
    backends: list[str] | None = None
    """Backends that teams may use here, as JSON; by default all that are installed."""
    existing_addresses: list[str] = ["127.0.0.0/8", "::1/128"]
    """Places of clusters on the backend ``existing``, as JSON: networks (``10.1.0.0/16``), addresses, names
    (``ray.example.org``, ``*.ray.example.org``), each with ``:port`` if only that one. A network counts for what a name
    resolves to at each look; what a listed name resolves to is trusted. A cluster that an admin of the platform applies
    need not be among them. Link-local and metadata addresses are refused always."""
    reconcile_interval: float = Field(default=1.0, gt=0)
    """Seconds between two looks at objects that are under way."""
    warm_processes: bool = True
    """Whether a local cluster forks its workers and jobs from an interpreter that has imported the usual libraries."""
    local_users: bool = False
    """Whether the backend ``local`` runs all of a team's clusters as a Unix user of that team, with files of its own.
    Only where root runs the platform, on Linux; without it all of them run as the platform's user."""
    local_user_ids: tuple[int, int] = (61184, 65519)
    """The first and the last number that such a user may have, as JSON. Nothing else on the host may use them; two
    platforms on one host need ranges that do not overlap."""
    log_level: str = "INFO"
    """Least level that is logged."""
    trusted_proxies: list[IPvAnyNetwork] = []
    """Addresses and networks of reverse proxies, as JSON: from them alone ``X-Forwarded-For`` is believed, which the
    audit log and a refusal's address are taken from. By default none are, and it is ignored."""
    log_max_bytes: int = Field(default=50 * 2**20, ge=64 * 2**10)
    """Bytes of a process' log in the home from which on the supervisor rotates it."""
    log_files: int = Field(default=3, ge=1, le=100)
    """How many rotated parts of each log are kept beside it."""
    max_header_bytes: int = Field(default=64 * 2**10, ge=2**10, le=2**20)
    """The most bytes that a request's line and headers may have together; more is answered with 431."""
    max_package_bytes: int = Field(default=256 * 2**20, ge=1)
    """The most bytes that an uploaded code package may have; more is answered with 413."""
    header_timeout: float = Field(default=20, gt=0)
    """Seconds in which a request's line and headers must arrive, from the connection or its first byte on."""
    body_timeout: float = Field(default=60, gt=0)
    """Seconds for which a request's body may stop arriving. Answers are not limited: a log may be followed for days."""
    keep_alive_timeout: int = Field(default=60, gt=0)
    """Seconds for which a connection is kept open for another request."""
    max_connections: int = Field(default=1000, ge=10)
    """The most connections in all. For one more, the one that has waited longest for a request is closed."""
    max_requests: int = Field(default=400, ge=1)
    """The most requests that one principal may have under way at once; one more is answered with 429."""
    max_followed_logs: int = Field(default=256, ge=1)
    """The most logs that one principal may follow at once; one more is answered with 429."""

    @property
    def home_paths(self) -> Home:
        """The home's paths."""
        return Home(self.home)

    @property
    def url(self) -> str:
        """The gateway's URL as clients and workers use it."""
        return self.public_url or f"http://{self.host}:{self.port}"

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of the store."""
        return self.database_url or f"sqlite:///{self.home_paths.database}"

    @property
    def dbos_url(self) -> str:
        """SQLAlchemy URL of DBOS' database."""
        return self.workflow_database_url or f"sqlite:///{self.home_paths.workflows}"

    @property
    def root_uri(self) -> str:
        """The storage root: the one that is set, else the one that a restore noted, else the home's own."""
        if self.storage_root:
            return self.storage_root
        kept = self.home_paths.kept_root
        return kept.read_text().strip() if kept.is_file() else f"file://{self.home_paths.storage}"

    @property
    def registry_url(self) -> str:
        """SQLAlchemy URL of Feast's registry."""
        return self.feast_registry_url or f"sqlite:///{self.home_paths.feast / 'registry.db'}"


def load_gateway() -> GatewaySettings:
    """The gateway's settings; raises InvalidInput naming each wrong variable."""
    try:
        return GatewaySettings()
    except ValidationError as exc:
        wrong = "; ".join(f"RAYPLANE_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in exc.errors())
        raise InvalidInput(f"Settings are wrong: {wrong}.", remedy="Mend these environment variables.") from exc


def write_secret(path: Path, text: str) -> None:
    """Write a 0600 file atomically; its folder is made 0700."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)


def read_secret(path: Path) -> str:
    """The text of a secret file; raises InvalidInput if it is missing or no text, or others may read it."""
    try:
        mode = path.stat().st_mode
        text = path.read_text().strip()
    except OSError as exc:
        raise InvalidInput(f"Secret file '{path}' can't be read: {exc.strerror}.", remedy="Run 'rayplane up'.") from exc
    except UnicodeDecodeError:
        # Not chained: the error would show what is in the file.
        raise InvalidInput(f"Secret file '{path}' is no text.", remedy="Write the secret alone into it.") from None
    if mode & 0o077:
        raise InvalidInput(f"Secret file '{path}' may be read by others.", remedy=f"Run: chmod 600 {path}")
    return text
