//! One question to a daemon and its answer.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::EXIT_USAGE;
use crate::api_types::ApiError;

/// How long the daemon may take to answer, and between two pieces of the answer. It tells us earlier
/// itself if it is alive.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is reached.
    #[error("cannot reach evb at {}: {error}; {}", path.display(), unreachable_remedy(error))]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// The daemon refused.
    #[error("{error}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        error: ApiError,
    },
    /// The name in the command is nobody's.
    #[error("there is no relay {0}; `evb status` lists relays and ports")]
    UnknownRelay(String),
    /// The name in the command is nobody's.
    #[error("there is no port {0}; `evb status` lists relays and ports")]
    UnknownPort(String),
    /// The port is another kind of port.
    #[error(
        "port {0} is no load port; one has `generator = {{ … }}` or `sink = true` in the configuration"
    )]
    NoLoadPort(String),
    /// The answer is not one, or breaks off.
    #[error("evb's answer cannot be read: {0}; if it goes on, restart evb or look into its log")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer does not come.
    #[error("evb does not answer; look into its log")]
    Silence,
    /// The answer cannot be written.
    #[error("cannot write the answer: {0}")]
    Output(#[source] io::Error),
}

impl ClientError {
    /// What the process says at its end.
    pub fn exit_code(&self) -> u8 {
        match self {
            // The request or the configuration is wrong.
            ClientError::Refused {
                status: 400 | 404 | 409,
                ..
            }
            | ClientError::UnknownRelay(_) => EXIT_USAGE,
            _ => 1,
        }
    }

    fn answer(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Answer(error.into())
    }
}

fn unreachable_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "is it running? --control names another socket",
        io::ErrorKind::ConnectionRefused => "it is not running any more; start it",
        io::ErrorKind::PermissionDenied => "ask as root or as a member of the socket's group",
        _ => "--control names another socket",
    }
}

/// A whole answer.
pub(super) struct Answer(Bytes);

impl Answer {
    /// What it says.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.0).map_err(ClientError::answer)
    }

    /// Writes it as it came.
    pub(super) fn pass_on(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.0)?;
        if self.0.ends_with(b"\n") {
            Ok(())
        } else {
            writeln!(out)
        }
    }
}

/// The path with these names and values as its query.
pub(super) fn path(path: &str, query: impl Iterator<Item = (&'static str, String)>) -> String {
    let mut text = path.to_owned();
    for (name, value) in query {
        text.push(if text.len() == path.len() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            // RFC 3986 2.3: unreserved characters.
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                // Memory takes what it is given.
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

/// Asks the daemon behind a control socket.
pub(super) fn ask(control: &Path, method: &str, path: &str) -> Result<Answer, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::Connect {
            path: control.to_owned(),
            error,
        })?;
    runtime.block_on(exchange(control, method, path))
}

async fn exchange(control: &Path, method: &str, path: &str) -> Result<Answer, ClientError> {
    let unreachable = |error| ClientError::Connect {
        path: control.to_owned(),
        error,
    };
    let stream = timeout(PATIENCE, UnixStream::connect(control))
        .await
        .map_err(|_| ClientError::Silence)?
        .map_err(unreachable)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(ClientError::answer)?;
    // It moves the bytes; what goes wrong with it shows in the answer.
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Host", "evb")
        .body(Empty::<Bytes>::new())
        .map_err(ClientError::answer)?;
    let answer = async {
        let response = timeout(PATIENCE, sender.send_request(request))
            .await
            .map_err(|_| ClientError::Silence)?
            .map_err(ClientError::answer)?;
        whole(response).await
    };
    let answer = answer.await;
    connection.abort();
    answer
}

/// Reads an answer to its end as fast as it comes: who shows it may be slower than the daemon likes.
async fn whole(mut response: Response<Incoming>) -> Result<Answer, ClientError> {
    let mut bytes = Vec::new();
    while let Some(frame) = timeout(PATIENCE, response.frame())
        .await
        .map_err(|_| ClientError::Silence)?
    {
        let frame = frame.map_err(ClientError::answer)?;
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(data);
        }
    }
    let answer = Answer(bytes.into());
    match response.status() {
        StatusCode::OK => Ok(answer),
        status => Err(ClientError::Refused {
            status: status.as_u16(),
            error: answer.parse().unwrap_or_else(|_| ApiError {
                error: format!("evb answered {status}"),
                remedy: Some("is it really evb that has this socket?".to_owned()),
            }),
        }),
    }
}
