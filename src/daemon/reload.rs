//! Becoming what a changed configuration file says.

use tokio::sync::oneshot;

use super::apply::openings;
use super::event::Event;
use super::opening::Opened;
use super::start::check_descriptors;
use super::{ApplyError, Daemon, report};
use crate::api::{Refusal, RefusalKind};
use crate::api_types::Reloaded;
use crate::config::{Change, Config};

/// A configuration on its way, and who is told when it is there.
pub(super) struct Reload {
    config: Config,
    reply: Option<ReloadReply>,
    /// Whether all that had to close has closed, and what is new is being opened.
    opening: bool,
}

/// Where the outcome of a reload goes.
pub(super) type ReloadReply = oneshot::Sender<Result<Reloaded, Refusal>>;

impl Daemon {
    /// Reads the configuration file again and becomes what it says.
    pub(super) fn reload(&mut self, reply: Option<ReloadReply>) {
        match self.begin_reload() {
            Ok(config) => {
                self.reload = Some(Reload {
                    config,
                    reply,
                    opening: false,
                });
            }
            Err((error, remedy)) => {
                log::error!("reload refused, all goes on as before:\n{error}");
                let refusal = Refusal::new(RefusalKind::Conflict, error, remedy);
                reply.map(|reply| reply.send(Err(refusal)));
            }
        }
    }

    /// The first part of a reload; an error says what is wrong and what to do.
    fn begin_reload(&mut self) -> Result<Config, (String, &'static str)> {
        const MEND: &str = "mend the file and reload again; until then all goes on as before";
        // For errors that end with what to do.
        const UNTIL_THEN: &str = "until then all goes on as before";
        if self.reload.is_some() {
            return Err(("a reload is under way".to_owned(), "wait until it is done"));
        }
        let Some(file) = &self.file else {
            let error = "evb was started without a configuration file".to_owned();
            return Err((error, "start it with `evb run --config FILE`"));
        };
        let mut config = Config::load(file).map_err(|errors| (errors.to_string(), MEND))?;
        // What concerns the process itself stays as it is until the next start.
        config.daemon = self.config.daemon.clone();
        let elsewhere = config.sockets().find(|path| {
            path.parent()
                .is_some_and(|parent| !self.directories.contains(parent))
        });
        if let Some(path) = elsewhere {
            let error = format!(
                "{} is in a directory that held no socket when evb started",
                path.display()
            );
            return Err((error, "start evb anew, or put the socket beside the others"));
        }
        let workers = self.pool.workers();
        if let Some((port, worker)) = config.pins().find(|(_, worker)| *worker >= workers) {
            let error =
                format!("port {port} is to have worker {worker}, and evb runs with {workers}");
            return Err((error, "start evb anew, or name another worker"));
        }
        self.check_devices(&config)
            .map_err(|error| (error.to_string(), UNTIL_THEN))?;
        check_descriptors(&config).map_err(|error| (error.to_string(), "start evb anew"))?;
        self.retire(&config);
        // What was removed may be given to others only when no worker uses it any more.
        self.publish();
        self.closing += 1;
        let events = self.events.clone();
        self.when_in_force(move || drop(events.send(Event::EndpointGone)));
        Ok(config)
    }

    /// The second part of a reload, once all sockets that had to close have closed: opens what is new.
    pub(super) fn open_for_reload(&mut self) {
        let opener = self.opener();
        let Some(reload) = self.reload.as_mut().filter(|reload| !reload.opening) else {
            return;
        };
        if self.closing > 0 {
            return;
        }
        reload.opening = true;
        let openings = openings(&self.world, &reload.config, opener);
        let events = self.events.clone();
        tokio::task::spawn_blocking(move || drop(events.send(Event::Opened(openings.open()))));
    }

    /// The last part of a reload.
    pub(super) fn finish_reload(&mut self, opened: Opened) {
        // If it stops meanwhile, the helper removes what it has made.
        let Some(Reload { config, reply, .. }) = self.reload.take() else {
            return;
        };
        let changes = Config::diff(&self.config, &config);
        let errors = self.establish(&config, opened);
        self.config = config;
        self.keep_watching_devices();
        self.publish();
        self.when_in_force(move || {
            let answer = answer(&changes, &errors);
            reply.map(|reply| reply.send(answer));
        });
    }
}

/// Logs what came of a reload, and says it to whom asked for it.
fn answer(changes: &[Change], errors: &[ApplyError]) -> Result<Reloaded, Refusal> {
    if errors.is_empty() {
        let changes: Vec<_> = changes.iter().map(report::change).collect();
        log::info!("reloaded; {}", changes.join("; "));
        return Ok(Reloaded { changes });
    }
    let text: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let text = text.join("\n");
    log::error!("reloaded in part:\n{text}");
    let remedy = "everything else was carried out; mend this and reload again";
    Err(Refusal::new(RefusalKind::Failed, text, remedy))
}
