//! `evb load`: generators started and stopped, and the highest rate without loss.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "rates are far from what a float cannot hold, and none is negative"
)]

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Target;
use super::bench::{percent, seconds};
use super::client::{self, ClientError};
use crate::api_types::{LoadOrder, LoadStatus, PortStatus, Status};
use crate::load::{Rate, Search, Trial};

/// A search ends when it is as near as this.
const PRECISION: f64 = 0.005;
/// How often it is looked whether a trial is over.
const LOOK: Duration = Duration::from_millis(20);
/// How long frames of a trial may be under way when it is over.
const SETTLE: Duration = Duration::from_millis(200);
/// How much longer than it should a trial may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `evb load`.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Load {
    /// Have a generator send
    Start {
        /// Name of its port
        port: String,
        /// Frames per second such as 500k or 2M, bits such as 10Gbit, or max [default: what the configuration says]
        #[arg(long)]
        rate: Option<Rate>,
        /// For so long [default: until it is stopped]
        #[arg(long, value_name = "S", value_parser = seconds)]
        seconds: Option<Duration>,
        /// Whom to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Have a generator send no more
    Stop {
        /// Name of its port
        port: String,
        /// Whom to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Find the highest rate at which nothing gets lost between a generator and sinks (RFC 2544)
    Search(Box<FindRate>),
}

/// `evb load search`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct FindRate {
    /// Name of the generator's port
    pub port: String,
    /// Load ports that its frames come to
    #[arg(long, value_name = "PORT", value_delimiter = ',', required = true)]
    pub to: Vec<String>,
    /// The highest rate to try, in frames per second [default: what the generator reaches]
    #[arg(long, value_name = "RATE", value_parser = frames)]
    pub highest: Option<u64>,
    /// Percent of frames whose loss counts as none
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent)]
    pub loss: f64,
    /// Seconds of each trial
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    pub seconds: Duration,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub target: Target,
}

/// One trial as it is shown.
#[derive(Debug, Clone, Copy, Serialize)]
struct Tried {
    /// What was asked for; none for as fast as possible.
    asked_frames_per_s: Option<u64>,
    /// What left.
    sent: u64,
    /// What came.
    received: u64,
    frames_per_s: f64,
    loss: f64,
}

/// What a search came to.
#[derive(Debug, Serialize)]
struct Found {
    /// None if frames got lost at every rate.
    frames_per_s: Option<f64>,
    loss: Option<f64>,
    trials: Vec<Tried>,
}

impl Load {
    pub(super) fn answer(self, out: &mut impl Write) -> Result<(), ClientError> {
        match self {
            Load::Start {
                port,
                rate,
                seconds,
                target,
            } => {
                let order = LoadOrder {
                    port,
                    rate: rate.map(|rate| rate.to_string()),
                    seconds: seconds.map(|time| time.as_secs_f64()),
                };
                start(&target, &order)?;
                Ok(())
            }
            Load::Stop { port, target } => {
                let order = LoadOrder {
                    port,
                    ..LoadOrder::default()
                };
                let path = client::path("/v1/load", order.pairs());
                let _: LoadStatus = client::ask(&target.control, "DELETE", &path)?.parse()?;
                Ok(())
            }
            Load::Search(search) => search.run(out),
        }
    }
}

fn start(target: &Target, order: &LoadOrder) -> Result<LoadStatus, ClientError> {
    let path = client::path("/v1/load", order.pairs());
    client::ask(&target.control, "POST", &path)?.parse()
}

impl FindRate {
    fn run(&self, out: &mut impl Write) -> Result<(), ClientError> {
        let mut trials = vec![];
        let highest = if let Some(rate) = self.highest {
            rate as f64
        } else {
            let tried = self.trial(None)?;
            self.show(out, &tried)?;
            trials.push(tried);
            tried.frames_per_s
        };
        let mut search = Search::new(highest.max(1.0), PRECISION, self.loss / 100.0);
        while let Some(rate) = search.next_rate() {
            let tried = self.trial(Some(rate.max(1.0) as u64))?;
            self.show(out, &tried)?;
            trials.push(tried);
            search.report(Trial {
                rate: tried.frames_per_s,
                loss: tried.loss,
            });
        }
        let best = search.best();
        let found = Found {
            frames_per_s: best.map(|best| best.rate),
            loss: best.map(|best| best.loss),
            trials,
        };
        let written = if self.json {
            serde_json::to_writer_pretty(&mut *out, &found)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out))
        } else {
            match best {
                Some(best) => writeln!(out, "\n{:.0} frames per second", best.rate),
                None => writeln!(out, "\nframes got lost at every rate"),
            }
        };
        written.map_err(ClientError::Output)
    }

    fn show(&self, out: &mut impl Write, tried: &Tried) -> Result<(), ClientError> {
        if self.json {
            return Ok(());
        }
        let asked = tried.asked_frames_per_s;
        let asked = asked.map_or("max".to_owned(), |rate| rate.to_string());
        writeln!(
            out,
            "offered {asked:>12}  sent {:>12}  received {:>12}  lost {:.4} %",
            tried.sent,
            tried.received,
            tried.loss * 100.0
        )
        .and_then(|()| out.flush())
        .map_err(ClientError::Output)
    }

    /// Sends for a while and counts what comes.
    fn trial(&self, rate: Option<u64>) -> Result<Tried, ClientError> {
        let before = self.counts()?;
        let order = LoadOrder {
            port: self.port.clone(),
            rate: Some(rate.map_or(Rate::Max, Rate::Frames).to_string()),
            seconds: Some(self.seconds.as_secs_f64()),
        };
        start(&self.target, &order)?;
        let deadline = Instant::now() + self.seconds + PATIENCE;
        thread::sleep(self.seconds);
        while self.status()?.1 {
            if Instant::now() > deadline {
                return Err(ClientError::Silence);
            }
            thread::sleep(LOOK);
        }
        thread::sleep(SETTLE);
        let after = self.counts()?;
        let (sent, received) = (after.0 - before.0, after.1.saturating_sub(before.1));
        Ok(Tried {
            asked_frames_per_s: rate,
            sent,
            received,
            frames_per_s: sent as f64 / self.seconds.as_secs_f64(),
            loss: sent.saturating_sub(received) as f64 / sent.max(1) as f64,
        })
    }

    /// Frames that left the generator, and those that came.
    fn counts(&self) -> Result<(u64, u64), ClientError> {
        let (counts, _) = self.status()?;
        Ok(counts)
    }

    /// The same, and whether the generator sends.
    fn status(&self) -> Result<((u64, u64), bool), ClientError> {
        let status: Status = client::ask(&self.target.control, "GET", "/v1/status")?.parse()?;
        let (from, load) = load_port(&status, &self.port)?;
        let mut received = 0;
        for name in &self.to {
            received += load_port(&status, name)?.1.received;
        }
        Ok(((from.counters.tx_frames, received), load.running))
    }
}

/// A load port of this name.
fn load_port<'a>(
    status: &'a Status,
    name: &str,
) -> Result<(&'a PortStatus, &'a LoadStatus), ClientError> {
    let port = status.ports.iter().find(|port| port.name == name);
    let port = port.ok_or_else(|| ClientError::UnknownPort(name.to_owned()))?;
    match &port.load {
        Some(load) => Ok((port, load)),
        None => Err(ClientError::NoLoadPort(name.to_owned())),
    }
}

fn frames(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(Rate::Frames(rate)) => Ok(rate),
        _ => Err("a number of frames a second such as 500k or 2M".to_owned()),
    }
}

/// What a load port has seen, in words.
pub(super) fn note(load: &LoadStatus) -> String {
    let LoadStatus {
        generator,
        running,
        received,
        missing,
        late,
        twice,
        stray,
    } = load;
    let what = match (generator, running) {
        (false, _) => "sink",
        (true, true) => "generator, sends",
        (true, false) => "generator, stopped",
    };
    format!(
        "{what}; got {received} numbered frames: {missing} missing, {late} late, {twice} twice; {stray} others"
    )
}
