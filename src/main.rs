//! The `evb` binary: command line → configuration → daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use evb::config::Config;
use evb::privileged::{self, Privileged};

#[derive(Parser)]
#[command(version)]
enum Cli {
    Run {
        #[arg(long)]
        config: Option<PathBuf>,
        #[arg(long)]
        port: Vec<PathBuf>,
        #[arg(long)]
        control: Option<PathBuf>,
    },
    Check {
        #[arg(long)]
        config: PathBuf,
    },
    #[command(hide = true, name = privileged::SUBCOMMAND)]
    Helper,
}

fn main() -> ExitCode {
    match Cli::parse() {
        Cli::Helper => {
            let _ = privileged::serve();
            ExitCode::SUCCESS
        }
        Cli::Check { config } => match Config::load(&config) {
            Ok(_) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{e}");
                ExitCode::from(2)
            }
        },
        Cli::Run {
            config: file,
            port,
            control,
        } => {
            env_logger::Builder::new()
                .filter_level(log::LevelFilter::Info)
                .init();
            let loaded = match &file {
                Some(f) => Config::load(f),
                None => Config::from_ports(&port),
            };
            let mut config = match loaded {
                Ok(c) => c,
                Err(e) => {
                    eprintln!("{e}");
                    return ExitCode::from(2);
                }
            };
            if control.is_some() {
                config.daemon.control = control;
            }
            let dirs: Vec<_> = config
                .sockets()
                .filter_map(Path::parent)
                .map(Path::to_owned)
                .collect();
            let p = match Privileged::spawn(dirs) {
                Ok(p) => p,
                Err(e) => {
                    eprintln!("{e}");
                    return ExitCode::from(1);
                }
            };
            if let Err(e) = evb::daemon::run(config, file, p) {
                eprintln!("evb: {e}");
                return ExitCode::from(1);
            }
            ExitCode::SUCCESS
        }
    }
}
