"""Settings from the environment (RAYPLANE_*), and the paths of the home."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pydantic import Field, IPvAnyNetwork, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rayplane.errors import InvalidInput


def find_home(start: Path | None = None) -> Path:
    """The home: RAYPLANE_HOME, else the nearest ``.rayplane/`` in ``start`` or above it, else ``~/.rayplane``."""
    named = os.environ.get("RAYPLANE_HOME")
    if named:
        return Path(named).expanduser().absolute()
    start_folder = (start or Path.cwd()).absolute()
    for folder in (start_folder, *start_folder.parents):
        if (folder / ".rayplane").is_dir():
            return folder / ".rayplane"
    return Path.home() / ".rayplane"


class Home:
    """Paths of one local platform's home, and the mark of its processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = hashlib.sha256(str(path).encode()).hexdigest()[:10]
        """Mark of this home's processes (environment variable RAYPLANE_MARK), also in its temporary folders' names."""

    @property
    def token(self) -> Path:
        """The local user's token (0600)."""
        return self.path / "token"

    @property
    def secrets(self) -> Path:
        """Folder (0700) of secrets, each in a 0600 file."""
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
        """Ports and URLs that `up` chose, as JSON."""
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
    def storage_uri(self) -> str:
        """URI of the default storage root."""
        return f"file://{self.storage}"

    @property
    def kept_root(self) -> Path:
        """URI of the storage root, written by a restore of a home whose root is not the default one."""
        return self.path / "storage-root"

    @property
    def workflows(self) -> Path:
        """DBOS' SQLite file."""
        return self.path / "workflows.db"

    @property
    def uploads(self) -> Path:
        """Folder (0700) of uploads under way, in files without names."""
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
        """0600 file in which an admin puts the Ray token of an ``existing`` cluster, and the address it is for."""
        return self.secrets / "clusters" / f"{team}.{cluster}.ray"

    @property
    def local_users(self) -> Path:
        """Numbers (uids) of the teams' Unix users, as JSON."""
        return self.path / "local-users.json"

    @property
    def prometheus(self) -> Path:
        """Prometheus' configuration and data."""
        return self.path / "prometheus"


class GatewaySettings(BaseSettings):
    """Settings of the gateway. Secrets are not among them, only paths of 0600 files that have them."""

    model_config = SettingsConfigDict(env_prefix="RAYPLANE_", extra="ignore")

    home: Path = Field(default_factory=find_home)
    """Folder of the platform's state; default: the nearest ``.rayplane`` in the working folder or above it, else
    ``~/.rayplane``."""
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
    """Root URI of all large data; default: the URI in the home's file ``storage-root``, which a restore writes, else
    file:// in the home."""
    mlflow_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of the MLflow server that `rayplane up` starts; default: a free one of this home's own."""
    mlflow_public_url: str | None = None
    """URL by which clients and workers reach the MLflow server that `rayplane up` starts; default: http://host:port."""
    mlflow_url: str | None = None
    """MLflow tracking server's URL; without it, jobs that want tracking are refused."""
    mlflow_admin_path: Path | None = None
    """0600 file with MLflow admin's user name and password, each on a line."""
    feast_registry_url: str | None = None
    """SQLAlchemy URL of Feast's SQL registry; default: SQLite in the home."""
    prometheus_url: str | None = None
    """Prometheus' URL, as the gateway tells it to clients."""
    backends: list[str] | None = None
    """Backends that teams may use on this platform, as a JSON list; default: all that are installed."""
    existing_addresses: list[str] = ["127.0.0.0/8", "::1/128"]
    """Allowed addresses of clusters on the backend ``existing``, as a JSON list: networks (``10.1.0.0/16``), addresses
    and host names (``ray.example.org``, ``*.ray.example.org``), each with ``:port`` to allow only that port. A name
    that is not listed is allowed if the address that it resolves to, at each use, is in a listed network; a listed host
    name may resolve to any address. Clusters that an admin of the platform applies need not be listed. Link-local and
    metadata addresses are always refused."""
    reconcile_interval: float = Field(default=1.0, gt=0)
    """Seconds between two reconciliations of objects that have not settled."""
    warm_processes: bool = True
    """True: a local cluster forks its workers and jobs from an interpreter that has imported common libraries."""
    local_users: bool = False
    """True: the backend ``local`` runs all of a team's clusters as a Unix user of that team, with files of its own.
    Needs Linux and a platform run by root. False: all clusters run as the platform's user."""
    local_user_ids: tuple[int, int] = (1_879_048_192, 1_879_113_727)
    """First and last number (uid) of the teams' Unix users, as a JSON list. Nothing else on the host may use these
    numbers; two platforms on one host need ranges that do not overlap. The default is beyond the ranges of
    systemd (61184-65519 for services, up to 1879048191 for containers) and the usual ones of ``/etc/subuid``."""
    log_level: str = "INFO"
    """Lowest level of log records that are written."""
    trusted_proxies: list[IPvAnyNetwork] = []
    """Addresses and networks of reverse proxies, as a JSON list. Only from these does the gateway trust
    ``X-Forwarded-For``, for the client addresses in the audit log and in refusals. Default: none; the header is
    ignored."""
    log_max_bytes: int = Field(default=50 * 2**20, ge=64 * 2**10)
    """Size in bytes beyond which the supervisor rotates a process' log in the home."""
    log_files: int = Field(default=3, ge=1, le=100)
    """Number of rotated parts that are kept of each log, each of at most twice ``log_max_bytes``."""
    max_header_bytes: int = Field(default=64 * 2**10, ge=2**10, le=2**20)
    """The most bytes that a request's line and headers may have together; more is answered with 431."""
    max_package_bytes: int = Field(default=256 * 2**20, ge=1)
    """The most bytes that an uploaded code package may have; more is answered with 413."""
    header_timeout: float = Field(default=20, gt=0)
    """Seconds within which a request's line and headers must arrive, counted from the connection or the first byte."""
    body_timeout: float = Field(default=60, gt=0)
    """Seconds for which a request's body may stall. Answers have no limit: a log may be followed for days."""
    keep_alive_timeout: int = Field(default=60, gt=0)
    """Seconds for which an idle connection is kept open."""
    max_connections: int = Field(default=1000, ge=10)
    """The most connections in all. At one more, the connection that has been idle for longest is closed."""
    max_requests: int = Field(default=400, ge=1)
    """The most requests that one principal may have under way at once; one more is answered with 429."""
    max_followed_logs: int = Field(default=256, ge=1)
    """The most logs that one principal may follow at once; one more is answered with 429."""

    @property
    def home_paths(self) -> Home:
        """Paths of the home."""
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
        """URI of the storage root: the setting, else the one that a restore recorded, else the home's own folder."""
        if self.storage_root:
            return self.storage_root
        recorded = self.home_paths.kept_root
        return recorded.read_text().strip() if recorded.is_file() else self.home_paths.storage_uri

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
    """Write a 0600 file atomically, creating its folder with mode 0700."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)


def read_secret(path: Path) -> str:
    """Read a secret file; raises InvalidInput if it is missing or not text, or if other users may read it."""
    try:
        mode = path.stat().st_mode
        text = path.read_text().strip()
    except OSError as exc:
        raise InvalidInput(f"Secret file '{path}' can't be read: {exc.strerror}.", remedy="Run 'rayplane up'.") from exc
    except UnicodeDecodeError:
        # Not chained, since the decoding error would show the file's content.
        raise InvalidInput(f"Secret file '{path}' is no text.", remedy="Write the secret alone into it.") from None
    if mode & 0o077:
        raise InvalidInput(f"Secret file '{path}' may be read by others.", remedy=f"Run: chmod 600 {path}")
    return text
