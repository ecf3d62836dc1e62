//! Load ports: generators and sinks in the configuration, and the commands for them.

mod support;

use std::time::Duration;

use serde_json::Value;
use support::evb::Evb;
use support::{LIMIT, eventually};

const HEAD: &str = "[daemon]\ncontrol = \"{dir}/control.sock\"\n\n[[relay]]\nname = \"r\"\n";

/// A generator that waits, with these words more, and a sink that is at the destination.
fn config(generator: &str, more: &str) -> String {
    format!(
        "{HEAD}
[[port]]
name = \"gen\"
generator = {{ dst = \"52:54:00:00:00:01\", src = \"52:54:00:00:01:01\", {generator} }}

[[port]]
name = \"sink\"
sink = true
mac = [\"52:54:00:00:00:01\"]
{more}"
    )
}

fn port(evb: &Evb, name: &str) -> Value {
    let mut status = evb.status();
    let ports = status["ports"].as_array_mut().unwrap();
    let port = ports.iter_mut().find(|port| port["name"] == name);
    port.unwrap().take()
}

fn load(evb: &Evb, words: &[&str]) -> (Option<i32>, String) {
    let control = evb.path("control.sock");
    let control = ["--control", control.to_str().unwrap()];
    let done = evb.command(&[&["load"], words, &control].concat());
    (done.code, done.output)
}

/// Waits until the generator has ended, and returns what it sent.
fn sent(evb: &Evb) -> u64 {
    eventually("the generator ends", || {
        let port = port(evb, "gen");
        (port["load"]["running"] == false).then(|| port["counters"]["tx_frames"].as_u64().unwrap())
    })
}

#[test]
fn a_generator_sends_for_as_long_as_it_is_told_to_and_nothing_gets_lost() {
    let evb = Evb::start(&config("flows = 1, start = false, rate = \"20k\"", ""));
    assert_eq!(port(&evb, "gen")["counters"]["tx_frames"], 0);
    assert_eq!(port(&evb, "gen")["load"]["running"], false);
    let (code, output) = load(&evb, &["start", "gen", "--seconds", "0.1"]);
    assert_eq!(code, Some(0), "{output}");
    let sent = sent(&evb);
    // At most its rate; a busy machine gives it less.
    assert!((1..=2002).contains(&sent), "{sent}");
    let sink = port(&evb, "sink");
    assert_eq!(sink["load"]["received"], sent);
    assert_eq!(sink["counters"]["rx_frames"], sent);
    assert_eq!(sink["counters"]["rx_bytes"], 64 * sent);
    for count in ["missing", "late", "twice", "stray"] {
        assert_eq!(sink["load"][count], 0, "{sink}");
    }
    evb.stop();
}

#[test]
fn a_generator_starts_with_the_daemon_and_stops_when_it_is_told_to() {
    let words = "flows = 50, rate = \"max\", sizes = [64, 1514, 9000]";
    let evb = Evb::start(&config(words, ""));
    evb.expect_counter("gen", "tx_frames", 10_000);
    let (code, output) = load(&evb, &["stop", "gen"]);
    assert_eq!(code, Some(0), "{output}");
    let sent = sent(&evb);
    let got = port(&evb, "sink")["load"]["received"].as_u64().unwrap();
    // Flows to addresses that nobody has are flooded: to the only other port.
    assert_eq!(sent, got);
    let again = self::sent(&evb);
    assert_eq!(sent, again, "it has stopped");
    evb.stop();
}

#[test]
fn a_guest_gets_what_a_generator_sends() {
    let more =
        "\n[[port]]\nname = \"p0\"\nlisten = \"{dir}/p0.sock\"\nmac = [\"52:54:00:00:00:02\"]\n";
    let text = config("start = false, sizes = [1514]", more);
    let text = text.replacen("52:54:00:00:00:01\", src", "52:54:00:00:00:02\", src", 1);
    let evb = Evb::start(&text);
    let mut guest = evb.guest("p0", 2);
    let (code, output) = load(&evb, &["start", "gen", "--rate", "1k", "--seconds", "0.02"]);
    assert_eq!(code, Some(0), "{output}");
    let frame = guest.recv_any(LIMIT).expect("a frame");
    assert_eq!(frame.bytes.len(), 1514);
    let (stamp, _) = evb::load::Stamp::read(&frame.bytes).expect("a stamp");
    assert_eq!((stamp.flow, stamp.sequence), (0, 0));
    let mut frames = 1;
    let sent = sent(&evb);
    while frames < sent {
        let frame = guest.recv_any(LIMIT).expect("a frame");
        let (stamp, _) = evb::load::Stamp::read(&frame.bytes).expect("a stamp");
        assert_eq!(u64::from(stamp.sequence), frames);
        frames += 1;
    }
    assert!(guest.recv_any(Duration::ZERO).is_none());
    evb.stop();
}

#[test]
fn vlans_apply_to_load_ports() {
    let text = format!(
        "{HEAD}
[[port]]
name = \"gen\"
trunk = [10, 20]
generator = {{ flows = [{{ dst = \"ff:ff:ff:ff:ff:ff\", src = \"52:54:00:00:01:01\", vid = 20 }}], start = false }}

[[port]]
name = \"ten\"
access = 10
sink = true

[[port]]
name = \"twenty\"
access = 20
sink = true
"
    );
    let evb = Evb::start(&text);
    load(&evb, &["start", "gen", "--rate", "1k", "--seconds", "0.01"]);
    let sent = sent(&evb);
    assert_eq!(port(&evb, "ten")["counters"]["rx_frames"], 0);
    let twenty = port(&evb, "twenty");
    assert_eq!(twenty["load"]["received"], sent);
    assert_eq!(twenty["counters"]["rx_bytes"], 60 * sent, "without the tag");
    evb.stop();
}

#[test]
fn a_sink_counts_strangers_and_a_guest_is_served_beside_a_generator() {
    let more = "\n[[port]]\nname = \"p0\"\nlisten = \"{dir}/p0.sock\"\n";
    let evb = Evb::start(&config("rate = \"max\"", more));
    let mut guest = evb.guest("p0", 7);
    let to_sink = support::eth([0x52, 0x54, 0, 0, 0, 1], support::frames::mac(7));
    for _ in 0..20 {
        guest.send(&to_sink.bytes());
    }
    let sink = port(&evb, "sink");
    assert!(sink["load"]["stray"].as_u64().unwrap() >= 20, "{sink}");
    evb.stop();
}

#[test]
fn the_highest_rate_is_searched() {
    let evb = Evb::start(&config("start = false", ""));
    let words = [
        "search",
        "gen",
        "--to",
        "sink",
        "--seconds",
        "0.02",
        "--highest",
        "50k",
        "--json",
    ];
    let (code, output) = load(&evb, &words);
    assert_eq!(code, Some(0), "{output}");
    let found: Value = serde_json::from_str(&output).unwrap();
    // A sink loses nothing.
    assert_eq!(found["trials"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found["loss"], 0.0);
    assert!(found["frames_per_s"].as_f64().unwrap() > 0.0);
    let (code, output) = load(
        &evb,
        &["search", "gen", "--to", "sink", "--seconds", "0.01"],
    );
    assert_eq!(code, Some(0), "{output}");
    assert!(output.ends_with("frames per second\n"), "{output}");
    evb.stop();
}

#[test]
fn only_generators_are_started() {
    let more = "\n[[port]]\nname = \"p0\"\nlisten = \"{dir}/p0.sock\"\n";
    let evb = Evb::start(&config("start = false", more));
    for (words, expected) in [
        (
            &["start", "nobody"][..],
            "there is no port nobody; `evb status` lists relays and ports",
        ),
        (
            &["start", "sink"],
            "port sink is no generator; one has `generator = { … }` in the configuration",
        ),
        (&["stop", "p0"], "port p0 is no generator"),
        (&["search", "gen", "--to", "p0"], "port p0 is no load port"),
        (&["search", "gen", "--to", "p9"], "there is no port p9"),
        (
            &["start", "gen", "--rate", "soon"],
            "a rate is a number of frames a second",
        ),
    ] {
        let (code, output) = load(&evb, words);
        assert_ne!(code, Some(0), "{words:?}");
        assert!(output.contains(expected), "{words:?}: {output}");
    }
    let done = evb.command(&[
        "status",
        "--control",
        evb.path("control.sock").to_str().unwrap(),
    ]);
    assert!(
        done.output
            .contains("gen: generator, stopped; got 0 numbered frames"),
        "{}",
        done.output
    );
    evb.stop();
}

#[test]
fn a_reload_changes_what_is_sent() {
    let mut evb = Evb::start(&config("start = false", ""));
    let mark = evb.log_mark();
    evb.reload(&config("rate = \"1k\", sizes = [100]", ""));
    evb.expect_log(mark, &["reloaded", "gen"]);
    evb.expect_counter("gen", "tx_frames", 2);
    let gen_port = port(&evb, "gen");
    let [frames, bytes] =
        ["tx_frames", "tx_bytes"].map(|name| gen_port["counters"][name].as_u64().unwrap());
    assert_eq!(bytes, 100 * frames);
    // It goes, and its rest with it.
    evb.reload(&format!(
        "{HEAD}\n[[port]]\nname = \"sink\"\nsink = true\nmac = [\"52:54:00:00:00:01\"]\n"
    ));
    evb.expect_log(mark, &["port gen", "removed"]);
    evb.stop();
}
