//! The operator's commands against the real server, with a daemon played by a task.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::thread;

use clap::Parser;
use evb::api::{self, Command, FdbWalk, Limits, Refusal, RefusalKind};
use evb::api_types::{FdbEntry, FdbKind, Flushed, Reloaded, Status};
use evb::cli::{self, Cli, ClientError};
use evb::frame::mac::Mac;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

const ENTRIES: u64 = 20_000;

async fn play(mut commands: mpsc::Receiver<Command>) {
    let mut reloads = 0;
    while let Some(command) = commands.recv().await {
        match command {
            Command::Status { reply } => {
                let _ = reply.send(Status {
                    version: "7".into(),
                    pid: 8,
                    uptime_s: 9,
                    workers: vec![],
                    relays: vec![],
                    ports: vec![],
                });
            }
            Command::Fdb { filter, reply } => {
                let _ = reply.send(match filter.relay {
                    Some(relay) => {
                        let error = format!("there is no relay {relay}");
                        Err(Refusal::new(RefusalKind::NotFound, error, "try a&b"))
                    }
                    None => Ok(walk(filter.port.as_deref() == Some("break"))),
                });
            }
            Command::Flush { filter, reply } => {
                // The name has to come back as it went.
                assert_eq!(filter.relay.as_deref(), Some("a&b c"));
                let _ = reply.send(Ok(Flushed { count: 3 }));
            }
            Command::Load { port, reply, .. } => {
                let error = format!("port {port} is no generator");
                let _ = reply.send(Err(Refusal::new(RefusalKind::Conflict, error, "none is")));
            }
            Command::Reload { reply } => {
                reloads += 1;
                let _ = reply.send(if reloads == 1 {
                    Ok(Reloaded {
                        changes: vec!["port vm1 added".into()],
                    })
                } else {
                    Err(Refusal::new(
                        RefusalKind::Conflict,
                        "evb.toml:3: no such mode",
                        "vepa?",
                    ))
                });
            }
        }
    }
}

fn walk(breaks: bool) -> FdbWalk {
    Box::new(move |show| {
        for number in 0..ENTRIES {
            assert!(
                !breaks || number < ENTRIES / 2,
                "the walk dies, as it is meant to"
            );
            let entry = FdbEntry {
                relay: "blue".into(),
                vid: Some(1),
                mac: Mac::from_u64(number),
                port: "vm1".into(),
                kind: FdbKind::Learned,
                age_s: Some(0),
            };
            if show(entry).is_break() {
                return;
            }
        }
    })
}

/// Starts a server in a thread of its own.
fn server() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let listener = StdListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (sender, commands) = api::channel();
            tokio::spawn(play(commands));
            let listener = UnixListener::from_std(listener).unwrap();
            api::serve(listener, sender, Limits::default()).await;
        });
    });
    (directory, path)
}

fn command(control: &Path, words: &[&str]) -> cli::Client {
    let control = control.to_str().unwrap();
    let words = ["evb"]
        .iter()
        .chain(words)
        .copied()
        .chain(["--control", control]);
    match Cli::parse_from(words).command {
        cli::Command::Client(client) => client,
        other => panic!("{other:?}"),
    }
}

fn ask(control: &Path, words: &[&str]) -> Result<String, ClientError> {
    let mut out = Vec::new();
    command(control, words).execute(&mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn commands_show_what_the_daemon_says() {
    let (_directory, control) = server();
    let shown = ask(&control, &["status"]).unwrap();
    assert!(
        shown.starts_with("evb 7, pid 8, up 9s, 0 workers\n"),
        "{shown}"
    );
    let json = ask(&control, &["status", "--json"]).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap().pid, 8);
    let shown = ask(&control, &["fdb", "show"]).unwrap();
    assert_eq!(shown.lines().count() as u64, ENTRIES + 1);
    let json = ask(&control, &["fdb", "show", "--json"]).unwrap();
    let entries: Vec<FdbEntry> = serde_json::from_str(&json).unwrap();
    assert_eq!(entries.len() as u64, ENTRIES);
    let shown = ask(&control, &["fdb", "flush", "--relay", "a&b c"]).unwrap();
    assert_eq!(shown, "3 entries flushed\n");
    assert_eq!(ask(&control, &["reload"]).unwrap(), "port vm1 added\n");
    let error = ask(&control, &["reload"]).unwrap_err();
    assert_eq!(error.to_string(), "evb.toml:3: no such mode; vepa?");
    assert_eq!(error.exit_code(), 2);
    let error = ask(&control, &["fdb", "show", "--relay", "red"]).unwrap_err();
    assert_eq!(error.to_string(), "there is no relay red; try a&b");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    let (_directory, control) = server();
    let show = ["fdb", "show", "--port", "break", "--json"];
    for words in [&show[..4], &show] {
        let error = ask(&control, words).unwrap_err();
        assert!(matches!(error, ClientError::Answer(_)), "{error}");
        assert_eq!(error.exit_code(), 1);
    }
}

/// A pipe whose reader has gone.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let (_directory, control) = server();
    for words in [&["status"][..], &["status", "--json"], &["fdb", "show"]] {
        command(&control, words).execute(&mut Closed).unwrap();
    }
}

#[test]
fn what_is_not_evb_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("control.sock");
    let listener = StdListener::bind(&control).unwrap();
    let answers = [
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n<>",
        "",
    ];
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    for answer in answers {
        let error = ask(&control, &["status"]).unwrap_err();
        if answer.starts_with("HTTP") {
            assert!(error.to_string().contains("502"), "{error}");
        } else {
            assert!(matches!(error, ClientError::Answer(_)), "{error}");
        }
        assert_eq!(error.exit_code(), 1);
    }
}
