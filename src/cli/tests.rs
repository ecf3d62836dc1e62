//! Command lines as they are written, and answers as they are shown.

use std::path::Path;

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::*;
use crate::api_types::{
    ApiError, Counters, FdbKind, LinkStatus, PortMode, PortRole, PortState, PortStatus,
    RelayStatus, VlanStatus, WorkerStatus,
};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn command(line: &str) -> Command {
    parse(line)
        .unwrap_or_else(|error| panic!("{line}: {error}"))
        .command
}

fn client(line: &str) -> Client {
    match command(line) {
        Command::Client(client) => client,
        other => panic!("{line}: {other:?}"),
    }
}

fn run(line: &str) -> Run {
    match command(line) {
        Command::Run(run) => run,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn run_takes_a_file_or_ports() {
    let expected = Run {
        config: Some("/etc/evb.toml".into()),
        ports: vec![],
        control: None,
        state: None,
        workers: None,
    };
    assert_eq!(run("evb run --config /etc/evb.toml"), expected);
    let expected = Run {
        config: None,
        ports: vec!["/a".into(), "/b".into(), "/c".into()],
        control: Some("/c.sock".into()),
        state: Some("/s".into()),
        workers: Some(2),
    };
    assert_eq!(
        run("evb run --port /a --port /b /c --control /c.sock --state /s --workers 2"),
        expected
    );
    let here = std::env::current_dir().unwrap();
    assert_eq!(
        run("evb run --port vm1.sock").ports,
        [here.join("vm1.sock")]
    );
    let Command::Check(check) = command("evb check --config evb.toml") else {
        panic!()
    };
    assert_eq!(check.config, Path::new("evb.toml"));
}

#[test]
fn clients_name_what_they_want() {
    let target = |path: &str| Target {
        control: path.into(),
    };
    for (line, expected) in [
        (
            "evb status",
            Client::Status {
                json: false,
                target: target(DEFAULT_CONTROL),
            },
        ),
        (
            "evb status --json --control /c",
            Client::Status {
                json: true,
                target: target("/c"),
            },
        ),
        (
            "evb vlans --relay blue",
            Client::Vlans {
                relay: Some("blue".into()),
                target: target(DEFAULT_CONTROL),
            },
        ),
        (
            "evb reload --control c",
            Client::Reload {
                target: target("c"),
            },
        ),
        (
            "evb fdb show --relay blue --port vm1 --vid 10 --mac 52:54:00:00:00:01 --json",
            Client::Fdb(Fdb::Show {
                filter: Filter {
                    relay: Some("blue".into()),
                    port: Some("vm1".into()),
                    vid: Vid::new(10),
                    mac: Some(Mac::from_u64(0x5254_0000_0001)),
                },
                json: true,
                target: target(DEFAULT_CONTROL),
            }),
        ),
        (
            "evb fdb flush --port vm1",
            Client::Fdb(Fdb::Flush {
                filter: Filter {
                    port: Some("vm1".into()),
                    ..Filter::default()
                },
                target: target(DEFAULT_CONTROL),
            }),
        ),
    ] {
        assert_eq!(client(line), expected, "{line}");
    }
    for line in [
        "evb --log debug status",
        "evb status --log debug",
        "evb status --log DEBUG",
    ] {
        assert_eq!(parse(line).unwrap().log, Some(LevelFilter::Debug), "{line}");
    }
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    for line in [
        "evb",
        "evb fly",
        "evb run",
        "evb run --config a --port /b",
        "evb run --port",
        "evb run --config a --workers 0",
        "evb run --config a --workers x",
        "evb check",
        "evb fdb",
        "evb fdb show --vid 0",
        "evb fdb show --vid 4095",
        "evb fdb show --mac 52:54",
        "evb fdb flush --json",
        "evb status extra",
        "evb status --log loud",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), i32::from(EXIT_USAGE), "{line}");
    }
    let error = parse("evb status --log loud").unwrap_err().to_string();
    assert!(
        error.contains("off, error, warn, info, debug or trace"),
        "{error}"
    );
    for (line, kind) in [
        ("evb --version", ErrorKind::DisplayVersion),
        ("evb run --help", ErrorKind::DisplayHelp),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (kind, 0), "{line}");
    }
}

fn text(show: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    show(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn port(name: &str) -> PortStatus {
    PortStatus {
        name: name.into(),
        relay: "blue".into(),
        role: PortRole::Local,
        mode: Some(PortMode::Vepa),
        state: PortState::Running,
        socket: Some(format!("/run/evb/{name}.sock")),
        links: vec![],
        queues: 2,
        workers: vec![0, 0],
        features: vec![],
        mtu: Some(1500),
        macs: vec![],
        refused_mac: None,
        load: None,
        counters: Counters::default(),
    }
}

fn link(name: &str, device: &str, carrier: bool, active: bool) -> LinkStatus {
    LinkStatus {
        name: name.into(),
        kind: "macvtap".into(),
        device: device.into(),
        present: true,
        carrier,
        active,
        mtu: Some(1500),
        mode: None,
    }
}

#[test]
fn the_status_is_aligned() {
    let mut failed = port("a-long-name");
    failed.state = PortState::Failed {
        reason: "ring 0:\x1b[2J bad".into(),
    };
    failed.refused_mac = Some(Mac::from_u64(2));
    failed.counters = Counters {
        tx_frames: 1234,
        tx_bytes: 567_890,
        drops: [("ring_full".to_owned(), 3), ("runt".to_owned(), 1)].into(),
        ..Counters::default()
    };
    let mut uplink = port("up0");
    (uplink.role, uplink.mode, uplink.mtu, uplink.socket) = (PortRole::Uplink, None, None, None);
    let mut bond = uplink.clone();
    uplink.links = vec![link("up0", "eth1", false, false)];
    uplink.state = PortState::Down;
    bond.name = "up1".into();
    bond.links = vec![
        link("up1a", "evb-up1a", false, false),
        link("up1b", "evb-up1b", true, true),
    ];
    bond.links[0].present = false;
    uplink.workers = vec![0, 1];
    let status = Status {
        version: "0.1.0".into(),
        pid: 7,
        uptime_s: 61,
        workers: vec![
            WorkerStatus {
                id: 0,
                cpu: Some(11),
                queues: 5,
                busy_permille: 431,
                busy_ns: 1,
            },
            WorkerStatus {
                id: 1,
                cpu: None,
                queues: 3,
                busy_permille: 0,
                busy_ns: 0,
            },
        ],
        relays: vec![RelayStatus {
            name: "blue".into(),
            ports: vec!["vm1".into()],
            fdb_entries: 12,
            fdb_limit: 8192,
            vlans: vec![],
        }],
        ports: vec![port("vm1"), failed, uplink, bond],
    };
    let expected = "\
evb 0.1.0, pid 7, up 1m 01s, 2 workers

WORKER  CPU  QUEUES  BUSY
     0   11       5   44%
     1    -       3    0%

RELAY  PORTS  FDB  LIMIT
blue       1   12   8192

PORT         RELAY  MODE    STATE    QUEUES  WORKERS   MTU    TX  TX BYTES  RX  RX BYTES  DROPS  SOCKET OR DEVICE
vm1          blue   vepa    running       2  0        1500     0         0   0         0      0  /run/evb/vm1.sock
a-long-name  blue   vepa    failed        2  0        1500  1234    567890   0         0      4  /run/evb/a-long-name.sock
up0          blue   uplink  down          2  0,1         -     0         0   0         0      0  macvtap eth1
up1          blue   uplink  running       2  0           -     0         0   0         0      0  macvtap evb-up1b

a-long-name: failed: ring 0:\u{fffd}[2J bad
a-long-name: refused address 00:00:00:00:00:02
a-long-name: dropped 3 ring_full, 1 runt
up0: macvtap eth1: no carrier
up1: link up1a: macvtap evb-up1a: not there
up1: link up1b: macvtap evb-up1b: carrier, active
";
    assert_eq!(text(|out| show::status(out, &status)), expected);
}

#[test]
fn vlans_are_aligned() {
    let relay = |name: &str, vlans: &[VlanStatus]| RelayStatus {
        name: name.into(),
        ports: vec![],
        fdb_entries: 0,
        fdb_limit: 1,
        vlans: vlans.into(),
    };
    let vlan = |vid, in_frames, drops| VlanStatus {
        vid,
        in_frames,
        in_bytes: 64 * in_frames,
        out_frames: 2 * in_frames,
        out_bytes: 120 * in_frames,
        drops,
    };
    let relays = [
        relay("blue", &[vlan(None, 0, 7), vlan(Some(10), 1234, 0)]),
        relay("flat", &[vlan(None, 5, 0)]),
    ];
    let expected = "\
RELAY  VLAN    IN  IN BYTES   OUT  OUT BYTES  DROPS
blue      -     0         0     0          0      7
blue     10  1234     78976  2468     148080      0
flat      -     5       320    10        600      0
";
    assert_eq!(text(|out| show::vlans(out, &relays)), expected);
    let unknown = ClientError::UnknownRelay("x".into());
    assert_eq!(unknown.exit_code(), 2);
}

fn entry(vid: Option<u16>, mac: u64, port: &str) -> FdbEntry {
    FdbEntry {
        relay: "blue".into(),
        vid,
        mac: Mac::from_u64(mac),
        port: port.into(),
        kind: if vid.is_some() {
            FdbKind::Learned
        } else {
            FdbKind::Registered
        },
        age_s: vid.map(u64::from),
    }
}

#[test]
fn the_fdb_is_sorted_and_aligned_over_blocks() {
    let few = vec![
        entry(Some(200), 2, "vm1"),
        entry(Some(20), 3, "a-long-name"),
        entry(None, 1, "vm1"),
    ];
    let expected = "\
RELAY  VLAN  MAC                PORT         KIND           AGE
blue      -  00:00:00:00:00:01  vm1          registered       -
blue     20  00:00:00:00:00:03  a-long-name  learned         20
blue    200  00:00:00:00:00:02  vm1          learned        200
";
    assert_eq!(text(|out| show::fdb(out, few)), expected);
    assert_eq!(
        text(|out| show::fdb(out, vec![])),
        "RELAY  VLAN  MAC  PORT  KIND  AGE\n"
    );
    let many = (0..5000).map(|mac| entry(Some(1), mac, if mac == 4999 { "longer" } else { "p" }));
    let shown = text(|out| show::fdb(out, many.collect()));
    assert_eq!(shown.lines().count(), 5001);
    let kind = shown.lines().next().unwrap().find("KIND").unwrap();
    assert!(
        shown
            .lines()
            .skip(1)
            .all(|line| line[kind..].starts_with("learned"))
    );
}

#[test]
fn changes_are_told() {
    let reloaded = |changes: &[&str]| Reloaded {
        changes: changes.iter().map(|&change| change.to_owned()).collect(),
    };
    assert_eq!(
        text(|out| show::reloaded(out, &reloaded(&[]))),
        "nothing has changed\n"
    );
    let two = reloaded(&["port vm1 added", "port vm2 removed"]);
    assert_eq!(
        text(|out| show::reloaded(out, &two)),
        "port vm1 added\nport vm2 removed\n"
    );
    for (count, expected) in [(0, "0 entries"), (1, "1 entry"), (2, "2 entries")] {
        let shown = text(|out| show::flushed(out, Flushed { count }));
        assert_eq!(shown, format!("{expected} flushed\n"));
    }
}

#[test]
fn names_survive_the_query() {
    let filter = FdbFilter {
        relay: Some("a&b=c d%ü".into()),
        vid: Vid::new(7),
        ..FdbFilter::default()
    };
    let path = client::path("/v1/fdb", filter.pairs());
    assert_eq!(path, "/v1/fdb?relay=a%26b%3Dc%20d%25%C3%BC&vid=7");
    let all = FdbFilter::default();
    assert_eq!(client::path("/v1/fdb", all.pairs()), "/v1/fdb");
}

#[test]
fn errors_have_a_remedy_and_an_exit_code() {
    let target = Target {
        control: "/nonexistent/control.sock".into(),
    };
    let error = Client::Reload { target }
        .execute(&mut Vec::new())
        .unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert_eq!(
        error.to_string(),
        "cannot reach evb at /nonexistent/control.sock: No such file or directory (os error 2); \
         is it running? --control names another socket"
    );
    let refused = |status, remedy: Option<&str>| ClientError::Refused {
        status,
        error: ApiError {
            error: "wrong".into(),
            remedy: remedy.map(str::to_owned),
        },
    };
    assert_eq!(refused(409, Some("do this")).to_string(), "wrong; do this");
    assert_eq!(refused(409, None).to_string(), "wrong");
    assert_eq!(refused(409, None).exit_code(), 2);
    assert_eq!(refused(503, None).exit_code(), 1);
}
