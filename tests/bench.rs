//! `evb bench`, as a user calls it: short runs of everything. Counts are checked, not rates.

mod support;

use std::process::{Command, Stdio};

use serde_json::Value;
use support::evb::{Evb, Finished, run, signal_process};
use support::eventually;

/// Short runs on whatever CPUs there are.
const SHORT: &[&str] = &["--seconds", "0.05", "--rounds", "1", "--no-pin"];

fn bench(words: &str) -> Finished {
    let args: Vec<&str> = ["bench"]
        .into_iter()
        .chain(SHORT.iter().copied())
        .chain(words.split_whitespace())
        .collect();
    run(&args, std::env::temp_dir().as_path())
}

/// The rows of a benchmark in which nothing is wrong.
fn rows(words: &str) -> Vec<Value> {
    let done = bench(&format!("--json {words}"));
    assert_eq!(done.code, Some(0), "{}", done.output);
    let mut report: Value = serde_json::from_str(&done.output).unwrap();
    let Value::Array(rows) = report["rows"].take() else {
        panic!("{report}");
    };
    for row in &rows {
        for count in ["late", "twice", "stray", "corrupt"] {
            assert_eq!(row[count], 0, "{row}");
        }
        let received = row["rounds"][0]["received"].as_u64().unwrap();
        let lost = row["lost"].as_u64().unwrap();
        assert!(received > 0, "{row}");
        assert_eq!(row["sent"].as_u64().unwrap(), received + lost, "{row}");
    }
    rows
}

#[test]
fn every_test_with_every_kind_of_frame() {
    let rows = rows("--tests uni,bidir,rr,paced,wake --sizes 64,1514,9000,imix,tso --rate 2k");
    assert_eq!(rows.len(), 25);
    for row in rows {
        let (test, latency) = (row["test"].as_str().unwrap(), &row["p50_ns"]);
        assert_eq!(
            latency.is_object(),
            ["rr", "paced", "wake"].contains(&test),
            "{row}"
        );
        let cpu = row["cpu_ns_per_frame"]["median"].as_f64();
        assert!(cpu.is_none_or(|cpu| cpu > 0.0), "{row}");
        assert_eq!(row["subject"], "evb");
    }
}

#[test]
fn flows_pairs_queues_and_workers() {
    let rows = rows("--tests bidir --sizes 64 --flows 1,7,300 --pairs 2 --queues 4 --workers 2");
    let flows: Vec<_> = rows
        .iter()
        .map(|row| row["flows"].as_u64().unwrap())
        .collect();
    assert_eq!(flows, [1, 7, 300]);
}

#[test]
fn beside_idle_ports_addresses_and_vlans() {
    let words = "--tests uni --sizes 64 --flows 8 --idle-ports 20 --fdb 5000 --vlans 4 --in-order";
    assert_eq!(rows(words).len(), 1);
}

#[test]
fn packed_rings_are_measured_or_the_reason_is_told() {
    let done = bench("--tests bidir,rr --sizes 64,tso --rings packed");
    let told =
        "does not offer packed virtqueues (VIRTIO_F_RING_PACKED); leave `packed` out of --rings";
    assert!(
        done.code == Some(0) || done.output.contains(told),
        "{}",
        done.output
    );
}

#[test]
fn a_plain_copy_is_measured_beside_it() {
    let rows = rows("--tests uni,bidir,rr --sizes 64,tso --ceiling");
    let copies = rows.iter().filter(|row| row["subject"] == "copy");
    assert_eq!((rows.len(), copies.clone().count()), (12, 6));
    for copy in copies {
        assert_eq!(copy["lost"], 0, "{copy}");
    }
}

#[test]
fn the_highest_rate_without_loss_is_searched() {
    let rows = rows("--tests uni --sizes 1514 --search --loss 99");
    assert!(rows[0]["frames_per_s"]["median"].as_f64().unwrap() > 0.0);
}

#[test]
fn another_back_end_is_measured() {
    let evb = Evb::bridge(2);
    let words = |more: &str| {
        let sockets = ["p0", "p1"].map(|port| evb.path(&format!("{port}.sock")));
        let sockets = sockets.map(|path| format!("--socket {}", path.display()));
        format!("{} --tests uni,rr --sizes 64 {more}", sockets.join(" "))
    };
    for row in rows(&words("")) {
        assert_eq!(row["subject"], "other");
    }
    let done = bench(&words("--pairs 2"));
    assert_eq!(done.code, Some(2), "{}", done.output);
    assert!(
        done.output
            .contains("2 sockets are given for 2 pairs of ports: give --socket 4 times")
    );
    evb.stop();
}

#[test]
fn the_table_has_a_line_for_each_case() {
    let done = bench("--tests uni,rr --sizes 64");
    assert_eq!(done.code, Some(0), "{}", done.output);
    let lines: Vec<_> = done.output.lines().collect();
    assert!(lines[0].contains("CPUs, Linux") && lines[0].ends_with("not pinned"));
    assert!(lines[2].starts_with("TEST"));
    assert!(lines[3].starts_with("uni") && lines[4].starts_with("rr"));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for (words, expected) in [
        ("--sizes 63", "a size is a number from 64 to 9216"),
        ("--rate 5x", "a rate is a number of frames a second"),
        ("--ring-size 100", "a power of two"),
        ("--ring-size 8 --sizes tso", "say more for --ring-size"),
        (
            "--search --tests rr",
            "--search goes with --tests uni and bidir",
        ),
        ("--socket /nowhere/a.sock", "give --socket 2 times"),
    ] {
        let done = bench(words);
        assert_eq!(done.code, Some(2), "{words}: {}", done.output);
        assert!(done.output.contains(expected), "{words}: {}", done.output);
    }
}

#[test]
fn an_interrupted_benchmark_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_evb"))
        .args([
            "bench",
            "--tests",
            "uni",
            "--sizes",
            "64",
            "--seconds",
            "600",
            "--no-pin",
        ])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let entries = || std::fs::read_dir(dir.path()).unwrap().count();
    let sockets = || {
        let bench = std::fs::read_dir(dir.path()).unwrap().next()?.ok()?;
        bench.path().join("p1.sock").exists().then_some(())
    };
    eventually("the daemon listens", sockets);
    assert!(signal_process(&child, libc::SIGINT));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "evb: interrupted\n"
    );
    assert_eq!(entries(), 0);
}
