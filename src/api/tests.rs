//! The real server on a real socket, a daemon played by a task, and clients that write their own HTTP.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::api_types::{FdbKind, LoadStatus};
use crate::frame::mac::Mac;

/// Entries of the FDB that the played daemon shows when asked for the relay `large`.
const LARGE: u64 = 100_000;

fn status() -> Status {
    Status {
        version: "0".into(),
        pid: 1,
        uptime_s: 2,
        workers: vec![],
        relays: vec![],
        ports: vec![],
    }
}

fn entry(number: u64) -> FdbEntry {
    FdbEntry {
        relay: "blue".into(),
        vid: Some(10),
        mac: Mac::from_u64(number),
        port: "vm1".into(),
        kind: FdbKind::Learned,
        age_s: Some(1),
    }
}

/// A daemon that does as the names in the filter say.
async fn play(mut commands: mpsc::Receiver<Command>, walked: Arc<AtomicUsize>) {
    let mut kept = Vec::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Status { reply } => drop(reply.send(status())),
            Command::Fdb { filter, reply } => {
                let walked = Arc::clone(&walked);
                let count = match filter.relay.as_deref() {
                    Some("large") => LARGE,
                    Some("empty") => 0,
                    Some("silent") => {
                        // Neither answered nor dropped.
                        kept.push(reply);
                        continue;
                    }
                    Some(name) => {
                        let error = format!("there is no relay {name}");
                        let refusal = Refusal::new(RefusalKind::NotFound, error, "it is blue");
                        let _ = reply.send(Err(refusal));
                        continue;
                    }
                    None => 2,
                };
                let walk: FdbWalk = Box::new(move |show| {
                    for number in 0..count {
                        walked.fetch_add(1, Ordering::Relaxed);
                        if show(entry(number)).is_break() {
                            return;
                        }
                    }
                });
                let _ = reply.send(Ok(walk));
            }
            Command::Flush { filter, reply } => {
                let count = filter.pairs().count() as u64;
                let _ = reply.send(Ok(Flushed { count }));
            }
            Command::Load { port, start, reply } => {
                // What was understood, in numbers.
                let rate = start.and_then(|start| start.rate?.per_second());
                let time = start.and_then(|start| start.time);
                let _ = reply.send(Ok(LoadStatus {
                    generator: port == "gen",
                    running: start.is_some(),
                    received: rate.unwrap_or_default(),
                    missing: time.map_or(0, |time| time.as_millis() as u64),
                    late: 0,
                    twice: 0,
                    stray: 0,
                }));
            }
            Command::Reload { reply } => {
                let refusal = Refusal::new(
                    RefusalKind::Conflict,
                    "evb.toml:3: no such mode",
                    "use vepa",
                );
                let _ = reply.send(Err(refusal));
            }
        }
    }
}

struct Server {
    directory: TempDir,
    walked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
    daemon: JoinHandle<()>,
}

impl Server {
    fn start(limits: Limits) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let (sender, commands) = channel();
        let walked = Arc::default();
        let daemon = tokio::spawn(play(commands, Arc::clone(&walked)));
        let task = tokio::spawn(serve(listener, sender, limits));
        Server {
            directory,
            walked,
            task,
            daemon,
        }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.directory.path().join("socket"))
            .await
            .unwrap()
    }

    /// Sends this and returns all that comes until the server closes.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        // A server that has refused already does not read the rest.
        let _ = stream.write_all(request).await;
        rest(&mut stream).await
    }

    /// Asks and returns the status and the body as JSON.
    async fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = self.raw(request.as_bytes()).await;
        (code(&answer), serde_json::from_str(&body(&answer)).unwrap())
    }
}

async fn rest(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = vec![0; 65536];
    // An error is an end too: it says that something sent was not read.
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        answer.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(answer).unwrap()
}

fn code(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("{answer:?}"))
        .parse()
        .unwrap()
}

fn body(answer: &str) -> String {
    let (head, mut rest) = answer.split_once("\r\n\r\n").unwrap();
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return rest.to_owned();
    }
    let mut body = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        body.push_str(&after[..length]);
        rest = &after[length + 2..];
    }
    body
}

/// Runs a test on a runtime like the daemon's; one that hangs fails.
fn run<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        timeout(Duration::from_mins(1), test())
            .await
            .expect("it hangs")
    })
}

fn short() -> Limits {
    Limits {
        head: Duration::from_millis(200),
        stall: Duration::from_millis(200),
        reply: Duration::from_millis(200),
        ..Limits::default()
    }
}

#[test]
fn each_route_answers() {
    run(|| async {
        let server = Server::start(Limits::default());
        let (code, json) = server.ask("GET", "/v1/version").await;
        assert_eq!((code, &json["api"]), (200, &"v1".into()));
        let (code, json) = server.ask("GET", "/v1/status").await;
        assert_eq!(code, 200);
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status());
        let (code, json) = server.ask("GET", "/v1/fdb").await;
        assert_eq!(code, 200);
        let entries: Vec<FdbEntry> = serde_json::from_value(json).unwrap();
        assert_eq!(entries, [entry(0), entry(1)]);
        assert_eq!(
            server.ask("GET", "/v1/fdb?relay=empty").await.1,
            Value::Array(vec![])
        );
        let path = "/v1/fdb?port=a%20b&vid=10&mac=52:54:00:00:00:01";
        assert_eq!(server.ask("DELETE", path).await.1["count"], 3);
        let (code, json) = server
            .ask("POST", "/v1/load?port=gen&rate=2M&seconds=1.5")
            .await;
        let understood = [&json["generator"], &json["received"], &json["missing"]];
        assert_eq!(code, 200);
        assert_eq!(understood, [&json!(true), &json!(2_000_000), &json!(1500)]);
        let (code, json) = server.ask("DELETE", "/v1/load?port=gen").await;
        assert_eq!((code, &json["running"]), (200, &json!(false)));
        let page = server.raw(b"GET /metrics HTTP/1.0\r\n\r\n").await;
        assert!(page.contains("text/plain") && page.contains("\nevb_uptime_seconds 2\n"));
    });
}

#[test]
fn what_is_wrong_gets_an_error_and_a_remedy() {
    run(|| async {
        let server = Server::start(Limits::default());
        for (method, path, expected) in [
            ("GET", "/", 404),
            ("GET", "/v2/status", 404),
            ("GET", "/v1/status/", 404),
            ("POST", "/v1/status", 405),
            ("PUT", "/v1/fdb", 405),
            ("GET", "/v1/reload", 405),
            ("GET", "/v1/fdb?vid=0", 400),
            ("GET", "/v1/fdb?vid=4095", 400),
            ("GET", "/v1/fdb?vid=x", 400),
            ("GET", "/v1/fdb?mac=1", 400),
            // A slip must not mean "all".
            ("DELETE", "/v1/fdb?realy=blue", 400),
            ("DELETE", "/v1/fdb?relay=a&relay=b", 400),
            ("GET", "/v1/fdb?relay=none", 404),
            ("POST", "/v1/load", 400),
            ("POST", "/v1/load?port=gen&rate=fast", 400),
            ("POST", "/v1/load?port=gen&seconds=-1", 400),
            ("POST", "/v1/load?port=gen&rat=1k", 400),
            ("DELETE", "/v1/load?port=gen&rate=1k", 400),
            ("GET", "/v1/load?port=gen", 405),
            ("POST", "/v1/reload", 409),
        ] {
            let (code, json) = server.ask(method, path).await;
            assert_eq!(code, expected, "{method} {path}: {json}");
            let error: ApiError = serde_json::from_value(json).unwrap();
            assert!(
                !error.error.is_empty() && error.remedy.is_some(),
                "{method} {path}"
            );
        }
    });
}

#[test]
fn what_is_not_http_is_turned_away() {
    run(|| async {
        let server = Server::start(Limits::default());
        let long = "x".repeat(100_000);
        let many = "a: b\r\n".repeat(5_000);
        for (request, expected) in [
            ("nonsense\r\n\r\n".to_owned(), 400),
            ("\0\u{1}\u{2}\r\n\r\n".to_owned(), 400),
            (
                "GET /v1/status HTTP/1.1\r\nContent-Length: x\r\n\r\n".to_owned(),
                400,
            ),
            (
                "GET /v1/status HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
                413,
            ),
            (
                "POST /v1/reload HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n".to_owned(),
                413,
            ),
            (
                "POST /v1/reload HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
                413,
            ),
            (format!("GET /{long} HTTP/1.1\r\n\r\n"), 431),
            (format!("GET / HTTP/1.1\r\na: {long}\r\n\r\n"), 431),
            (format!("GET / HTTP/1.1\r\n{many}\r\n"), 431),
        ] {
            let start: String = request.chars().take(60).collect();
            let answer = server.raw(request.as_bytes()).await;
            assert_eq!(code(&answer), expected, "{start:?}");
        }
        assert_eq!(server.ask("GET", "/v1/status").await.0, 200);
    });
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    run(|| async {
        let server = Server::start(short());
        let mut stream = server.connect().await;
        for _ in 0..3 {
            stream
                .write_all(b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            let mut buffer = [0; 4096];
            let length = stream.read(&mut buffer).await.unwrap();
            assert!(buffer[..length].starts_with(b"HTTP/1.1 200"));
        }
        // One that has nothing more to say is let go.
        assert_eq!(rest(&mut stream).await, "");
    });
}

#[test]
fn a_client_that_sends_slowly_is_cut_off() {
    run(|| async {
        let server = Server::start(short());
        for start in ["", "G", "GET /v1/status HTTP/1.1\r\nHo"] {
            let mut stream = server.connect().await;
            stream.write_all(start.as_bytes()).await.unwrap();
            let begun = Instant::now();
            rest(&mut stream).await;
            assert!(begun.elapsed() < Duration::from_secs(5), "{start:?}");
        }
    });
}

#[test]
fn a_large_table_is_streamed_whole() {
    run(|| async {
        let server = Server::start(Limits::default());
        let (code, json) = server.ask("GET", "/v1/fdb?relay=large").await;
        assert_eq!(code, 200);
        assert_eq!(json.as_array().unwrap().len() as u64, LARGE);
    });
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_is_cut_off() {
    run(|| async {
        let server = Server::start(Limits {
            walks: 1,
            ..short()
        });
        let mut slow = server.connect().await;
        slow.write_all(b"GET /v1/fdb?relay=large HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        while server.walked.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Others are served meanwhile, and told where there is no room for them.
        assert_eq!(server.ask("GET", "/v1/status").await.0, 200);
        assert_eq!(server.ask("GET", "/v1/fdb?relay=empty").await.0, 503);
        // The walk ends early, which makes room, and what was written ahead of the client is little.
        while server.ask("GET", "/v1/fdb?relay=empty").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let walked = server.walked.load(Ordering::Relaxed) as u64;
        assert!(walked < LARGE / 10, "{walked}");
        let answer = rest(&mut slow).await;
        assert!(!answer.ends_with("]\n\r\n0\r\n\r\n"));
    });
}

#[test]
fn a_client_that_leaves_ends_the_walk() {
    run(|| async {
        let server = Server::start(Limits {
            walks: 1,
            ..Limits::default()
        });
        for _ in 0..3 {
            let mut stream = server.connect().await;
            stream
                .write_all(b"GET /v1/fdb?relay=large HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            stream.read_u8().await.unwrap();
            drop(stream);
            while server.ask("GET", "/v1/fdb?relay=empty").await.0 != 200 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert!((server.walked.load(Ordering::Relaxed) as u64) < LARGE);
    });
}

#[test]
fn connections_are_counted() {
    run(|| async {
        let server = Server::start(Limits {
            connections: 3,
            head: Duration::from_millis(500),
            ..Limits::default()
        });
        let mut idle = Vec::new();
        for _ in 0..3 {
            idle.push(server.connect().await);
        }
        let (code, json) = server.ask("GET", "/v1/status").await;
        assert_eq!(code, 503);
        assert!(
            json["error"]
                .as_str()
                .unwrap()
                .contains("too many connections")
        );
        // A crowd beyond that is closed without a word, and forgotten.
        let mut crowd = Vec::new();
        for _ in 0..100 {
            crowd.push(server.connect().await);
        }
        for stream in idle.iter_mut().chain(&mut crowd) {
            rest(stream).await;
        }
        assert_eq!(server.ask("GET", "/v1/status").await.0, 200);
    });
}

#[test]
fn a_daemon_that_does_not_answer_is_told_of() {
    run(|| async {
        let server = Server::start(short());
        let (code, json) = server.ask("GET", "/v1/fdb?relay=silent").await;
        assert_eq!(code, 504);
        assert!(json["remedy"].as_str().unwrap().contains("log"));
        server.daemon.abort();
        while !server.daemon.is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(server.ask("GET", "/v1/status").await.0, 503);
        assert_eq!(server.ask("GET", "/v1/version").await.0, 200);
    });
}

#[test]
fn the_end_of_the_server_cuts_connections() {
    run(|| async {
        let server = Server::start(Limits::default());
        let mut stream = server.connect().await;
        assert_eq!(server.ask("GET", "/v1/version").await.0, 200);
        server.task.abort();
        assert_eq!(rest(&mut stream).await, "");
    });
}
