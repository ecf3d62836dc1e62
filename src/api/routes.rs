//! The routes: from a request to a command, from the reply to an answer.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::body::Body as _;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::{Command, Commands, Limits, Refusal, RefusalKind, Start, fdb, metrics};
use crate::api_types::{
    ApiError, FdbFilter, Flushed, LoadOrder, LoadStatus, Reloaded, Status, Version,
};
use crate::load::RateError;

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) pid: Option<i32>,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} of user {}", self.uid),
            None => write!(f, "user {}", self.uid),
        }
    }
}

/// What the handlers share.
#[derive(Clone)]
struct Desk {
    commands: Commands,
    /// How long the daemon may take.
    patience: Duration,
    walks: Arc<Semaphore>,
}

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct Failure(StatusCode, ApiError);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let status = match refusal.kind {
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::Conflict => StatusCode::CONFLICT,
            RefusalKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failure(status, refusal.error)
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Failure {
        let remedy = "the words of a query are relay, port, vid and mac";
        failure(StatusCode::BAD_REQUEST, &rejection.body_text(), remedy)
    }
}

/// An answer with the remedy.
pub(super) fn failure(status: StatusCode, error: &str, remedy: &str) -> Failure {
    Failure(
        status,
        ApiError {
            error: error.to_owned(),
            remedy: Some(remedy.to_owned()),
        },
    )
}

/// The server's routes.
pub(super) fn router(commands: Commands, limits: &Limits) -> Router {
    let desk = Desk {
        commands,
        patience: limits.reply,
        walks: Arc::new(Semaphore::new(limits.walks)),
    };
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/status", get(status))
        .route("/v1/fdb", get(show).delete(flush))
        .route("/v1/load", post(start).delete(stop))
        .route("/v1/reload", post(reload))
        .route("/metrics", get(scrape))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(refuse_body))
        .with_state(desk)
}

impl Desk {
    /// Hands a command to the daemon and waits for the reply.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.commands.send(command(reply)).await.ok()?;
            answer.await.ok()
        };
        match timeout(self.patience, exchange).await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(failure(
                StatusCode::SERVICE_UNAVAILABLE,
                "evb is stopping",
                "try again when it has started",
            )),
            Err(_) => Err(failure(
                StatusCode::GATEWAY_TIMEOUT,
                &format!(
                    "evb has not answered within {} s",
                    self.patience.as_secs_f32()
                ),
                "it is busy; try again, and look into its log",
            )),
        }
    }
}

async fn version() -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: "v1".to_owned(),
    })
}

async fn status(State(desk): State<Desk>) -> Result<Json<Status>, Failure> {
    desk.ask(|reply| Command::Status { reply }).await.map(Json)
}

async fn scrape(State(desk): State<Desk>) -> Result<Response, Failure> {
    let status = desk.ask(|reply| Command::Status { reply }).await?;
    Ok((
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        metrics::text(&status),
    )
        .into_response())
}

async fn show(
    State(desk): State<Desk>,
    query: Result<Query<FdbFilter>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(filter) = query?;
    let Ok(permit) = Arc::clone(&desk.walks).try_acquire_owned() else {
        return Err(failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "the FDB is being shown to several clients already",
            "try again in a moment",
        ));
    };
    let walk = desk.ask(|reply| Command::Fdb { filter, reply }).await??;
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        fdb::body(walk, permit),
    )
        .into_response())
}

async fn flush(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<FdbFilter>, QueryRejection>,
) -> Result<Json<Flushed>, Failure> {
    let Query(filter) = query?;
    let words: Vec<_> = filter
        .pairs()
        .map(|(name, value)| format!(" {name}={}", value.escape_debug()))
        .collect();
    let flushed = desk.ask(|reply| Command::Flush { filter, reply }).await??;
    log::info!(
        "{peer} flushed the FDB{}: {} entries",
        words.concat(),
        flushed.count
    );
    Ok(Json(flushed))
}

async fn reload(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<Reloaded>, Failure> {
    log::info!("{peer} asks to reload the configuration");
    Ok(Json(desk.ask(|reply| Command::Reload { reply }).await??))
}

async fn start(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<LoadOrder>, QueryRejection>,
) -> Result<Json<LoadStatus>, Failure> {
    let order = load_order(query)?;
    let rate = order.rate.map(|rate| rate.parse());
    let rate = rate.transpose().map_err(|error: RateError| {
        let remedy = "give `rate` as in the configuration";
        failure(StatusCode::BAD_REQUEST, &error.to_string(), remedy)
    })?;
    let time = order.seconds.map(Duration::try_from_secs_f64);
    let time = time.transpose().map_err(|error| {
        let error = format!("`seconds`: {error}");
        failure(StatusCode::BAD_REQUEST, &error, "give a positive number")
    })?;
    let start = Some(Start { rate, time });
    ask_load(&desk, &peer, order.port, start).await
}

async fn stop(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<LoadOrder>, QueryRejection>,
) -> Result<Json<LoadStatus>, Failure> {
    let order = load_order(query)?;
    if order.rate.is_some() || order.seconds.is_some() {
        let error = "stopping knows neither `rate` nor `seconds`";
        return Err(failure(StatusCode::BAD_REQUEST, error, "give `port` only"));
    }
    ask_load(&desk, &peer, order.port, None).await
}

fn load_order(query: Result<Query<LoadOrder>, QueryRejection>) -> Result<LoadOrder, Failure> {
    let Query(order) = query.map_err(|rejection| {
        let remedy = "the words of a query are port, rate and seconds";
        failure(StatusCode::BAD_REQUEST, &rejection.body_text(), remedy)
    })?;
    Ok(order)
}

async fn ask_load(
    desk: &Desk,
    peer: &Peer,
    port: String,
    start: Option<Start>,
) -> Result<Json<LoadStatus>, Failure> {
    let (verb, name) = (
        if start.is_some() { "starts" } else { "stops" },
        port.escape_debug().to_string(),
    );
    let status = desk
        .ask(|reply| Command::Load { port, start, reply })
        .await??;
    log::info!("{peer} {verb} generator {name}");
    Ok(Json(status))
}

async fn unknown_path(request: Request) -> Failure {
    let error = format!("there is no {}", request.uri().path());
    let remedy = "use /v1/version, /v1/status, /v1/fdb, /v1/load, /v1/reload or /metrics";
    failure(StatusCode::NOT_FOUND, &error, remedy)
}

async fn wrong_method(request: Request) -> Failure {
    let error = format!(
        "{} cannot be asked of {}",
        request.method(),
        request.uri().path()
    );
    let remedy = "the header field Allow names what can";
    failure(StatusCode::METHOD_NOT_ALLOWED, &error, remedy)
}

/// No request here has a body, and one that is not awaited cannot be slow or large.
async fn refuse_body(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let error = "the request has a body";
    let remedy = "say all in the path and the query";
    let mut response = failure(StatusCode::PAYLOAD_TOO_LARGE, error, remedy).into_response();
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
