"""Settings: flag > environment > file > default, each judged the same, each error naming its source."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpudisagg.server.config import OPTIONS, ConfigError, default_listen, load_file, resolve

GIB = 1 << 30
LISTEN = {"listen": ("unix:///run/x.sock",)}
SOURCES = ("flag", "environment", "file", "default")


def write(folder: Path, text: str) -> Path:
    path = folder / "server.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("first", SOURCES)
def test_the_first_source_that_has_a_value_wins(tmp_path: Path, first: str) -> None:
    sources = SOURCES[SOURCES.index(first) :]
    flags = {**LISTEN, "memory": "1GiB"} if "flag" in sources else LISTEN
    environ = {"GPUDISAGG_MEMORY": "2GiB"} if "environment" in sources else {}
    file = write(tmp_path, 'memory = "3GiB"\n') if "file" in sources else None
    expected = {"flag": 1 * GIB, "environment": 2 * GIB, "file": 3 * GIB, "default": 4 * GIB}[first]
    assert resolve(flags, environ, file).memory == expected


def test_each_setting_is_resolved_by_itself(tmp_path: Path) -> None:
    file = write(tmp_path, "workers = 7\nqueue_timeout = 1.5\nallow_uid = [1000, 1001]\n")
    config = resolve({**LISTEN, "threads": "3"}, {"GPUDISAGG_GRACE": "9"}, file)
    assert (config.workers, config.queue_timeout, config.allow_uid) == (7, 1.5, (1000, 1001))
    assert (config.threads, config.grace, config.device) == (3, 9.0, "cpu")


def test_the_environment_names_a_file_unless_the_flag_does(tmp_path: Path) -> None:
    named = write(tmp_path, "workers = 3\n")
    other = tmp_path / "other.toml"
    other.write_text("workers = 4\n", encoding="utf-8")
    environ = {"GPUDISAGG_CONFIG": str(named)}
    assert resolve(LISTEN, environ).workers == 3
    assert resolve(LISTEN, environ, other).workers == 4


def test_every_setting_can_come_from_every_source(tmp_path: Path) -> None:
    samples = {
        "listen": "unix:///run/y.sock",
        "allow_network": "yes",
        "tls_cert": "/etc/gpu/cert.pem",
        "tls_key": "/etc/gpu/key.pem",
        "tls_ca": "/etc/gpu/ca.pem",
        "workers": "5",
        "spares": "3",
        "device": "cpu",
        "memory": "64MiB",
        "host_memory": "32MiB",
        "threads": "2",
        "cache_dir": "/var/cache/x",
        "allow_uid": "1000",
        "queue_timeout": "7",
        "hello_timeout": "2",
        "start_timeout": "30",
        "grace": "1",
        "max_pending": "9",
        "log_level": "debug",
    }
    assert samples.keys() == {option.name for option in OPTIONS}
    by_flag = resolve({o.name: (samples[o.name],) if o.many else samples[o.name] for o in OPTIONS}, {})
    by_environment = resolve({}, {o.environment: samples[o.name] for o in OPTIONS})
    toml = "".join(f'{name} = "{value}"\n' for name, value in samples.items())
    assert by_flag == by_environment == resolve({}, {}, write(tmp_path, toml))
    assert by_flag != resolve(LISTEN, {})


def test_lists_in_the_environment_are_split_at_commas_and_blanks() -> None:
    config = resolve({}, {"GPUDISAGG_LISTEN": "unix:///a.sock, unix:///b.sock unix:///a.sock"})
    assert config.listen == ("unix:///a.sock", "unix:///b.sock")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"listen": ("http://0.0.0.0:1",)}, "--listen: .*no transport http://; there is unix://"),
        ({"listen": ("auto://127.0.0.1:1",)}, "--listen: .*auto:// is for clients"),
        ({"listen": ("tcp://127.0.0.1",)}, "--listen: .*no port"),
        ({"allow_network": "perhaps"}, "--allow-network: 'perhaps' is neither true nor false"),
        ({"tls_key": "/key.pem"}, "give --tls-cert too"),
        ({"listen": ("rdma://127.0.0.1:1",), "tls_cert": "/cert.pem"}, "RDMA is not encrypted"),
        ({"listen": ("unix://relative",)}, "--listen: .*three slashes"),
        ({"memory": "lots"}, "--memory: 'lots' is no size"),
        ({"memory": "0"}, "--memory: must be more than 0"),
        ({"workers": "0"}, "--workers: 0 is not between 1 and 256"),
        ({"workers": "two"}, "--workers: 'two' is no whole number"),
        ({"queue_timeout": "nan"}, "--queue-timeout: nan s is not between"),
        ({"device": "cuda"}, "--device: no device 'cuda'; there is cpu"),
        ({"log_level": "loud"}, "--log-level: no log level 'loud'; there is debug, info"),
        ({"allow_uid": ("me",)}, "--allow-uid: 'me' is no whole number"),
    ],
)
def test_a_bad_flag_is_named(flags: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve({**LISTEN, **flags}, {})


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.0.0.1", "gpu-host", "[2001:db8::1]"])
@pytest.mark.parametrize("scheme", ["tcp", "rdma"])
def test_beyond_this_host_it_listens_only_if_told_to(scheme: str, host: str) -> None:
    address = f"{scheme}://{host}:7777"
    with pytest.raises(ConfigError, match=r"may run code as this user.* --allow-network"):
        resolve({"listen": (address,)}, {})
    for value in (True, "true", "1"):
        assert resolve({"listen": (address,), "allow_network": value}, {}).listen == (address,)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"])
def test_on_this_host_it_may_listen_over_tcp(host: str) -> None:
    assert resolve({"listen": (f"tcp://{host}:0",)}, {}).listen == (f"tcp://{host}:0",)


def test_a_bad_value_names_the_source_it_came_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="GPUDISAGG_WORKERS: 'x' is no whole number"):
        resolve(LISTEN, {"GPUDISAGG_WORKERS": "x"})
    file = write(tmp_path, "workers = 1.5\n")
    with pytest.raises(ConfigError, match=f"workers in {file}: 1.5 is no whole number"):
        resolve(LISTEN, {}, file)


def test_a_value_that_is_overridden_is_not_judged() -> None:
    assert resolve({**LISTEN, "workers": "3"}, {"GPUDISAGG_WORKERS": "x"}).workers == 3


def test_a_misspelt_key_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no setting 'worker'; did you mean workers\?"):
        load_file(write(tmp_path, "worker = 2\n"))


@pytest.mark.parametrize("text", ["workers", "= 2", "\x00"])
def test_a_file_that_is_not_toml_says_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is not TOML"):
        load_file(write(tmp_path, text))


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_file(tmp_path / "none.toml")


def test_where_it_listens_by_default() -> None:
    assert default_listen({}, 0) == ("unix:///run/gpudisagg.sock",)
    assert default_listen({"XDG_RUNTIME_DIR": "/run/user/7"}, 7) == ("unix:///run/user/7/gpudisagg.sock",)
    with pytest.raises(ConfigError, match="say where to listen"):
        default_listen({}, 7)


toml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(option=st.sampled_from(OPTIONS), value=toml_values)
def test_any_value_of_any_type_gives_a_setting_or_a_config_error(option: object, value: object) -> None:
    try:
        config = resolve({**LISTEN, option.name: value}, {})  # type: ignore[attr-defined]
    except ConfigError:
        return
    assert config.workers >= 1
    assert config.memory >= 1
