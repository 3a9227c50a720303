//! Notices that the process is to end soon: a signal, a file that appears, or an answer of a metadata service.
//!
//! Clouds announce that they take a machine away some seconds ahead. Google Compute Engine answers `TRUE` instead of `FALSE`
//! under `instance/preempted`; Amazon EC2 answers 200 instead of 404 under `spot/instance-action` (without a token, where version 2
//! of its service is not required); elsewhere an agent on the host can make a file appear.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, StatusCode, Url, redirect};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often a file is looked for and a service asked.
const PERIOD: Duration = Duration::from_secs(1);

/// An answer that is longer than this is none of a metadata service.
const LONGEST: u64 = 64 * 1024;

/// Where notices come from.
pub(crate) struct Notices {
    terminate: Signal,
    interrupt: Signal,
    file: Option<PathBuf>,
    service: Option<Service>,
}

impl Notices {
    /// Signals, and where they are given a file and the URL of a service.
    pub(crate) fn new(file: Option<PathBuf>, url: Option<Url>) -> anyhow::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let service = url.map(Service::new).transpose()?;
        Ok(Self { terminate, interrupt, file, service })
    }

    /// Resolves with the reason when the process is to end.
    pub(crate) async fn next(&mut self) -> String {
        let Self { terminate, interrupt, file, service } = self;
        tokio::select! {
            _ = terminate.recv() => "SIGTERM".to_owned(),
            _ = interrupt.recv() => "SIGINT".to_owned(),
            path = appears(file.clone()) => format!("pre-emption notice: {} appeared", path.display()),
            url = announced(service.as_ref()) => format!("pre-emption notice of {url}"),
        }
    }
}

async fn appears(file: Option<PathBuf>) -> PathBuf {
    let Some(file) = file else { return std::future::pending().await };
    let mut period = tokio::time::interval(PERIOD);
    loop {
        period.tick().await;
        // A folder that can't be read announces nothing.
        if tokio::fs::try_exists(&file).await.unwrap_or(false) {
            return file;
        }
    }
}

async fn announced(service: Option<&Service>) -> &Url {
    let Some(service) = service else { return std::future::pending().await };
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        if service.announces().await {
            return &service.url;
        }
    }
}

/// A service that is asked for notices.
struct Service {
    client: Client,
    url: Url,
}

impl Service {
    fn new(url: Url) -> reqwest::Result<Self> {
        // Google's service answers only those who say that they mean it; others don't mind.
        let headers = HeaderMap::from_iter([(
            reqwest::header::HeaderName::from_static("metadata-flavor"),
            HeaderValue::from_static("Google"),
        )]);
        // Metadata are the machine's own: no proxy on the way, and no other place to be sent to.
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(PERIOD * 2)
            .default_headers(headers)
            .build()?;
        Ok(Self { client, url })
    }

    /// Whether it says so now. A service that is away, or answers with an error, says nothing.
    async fn announces(&self) -> bool {
        let Ok(answer) = self.client.get(self.url.clone()).send().await else { return false };
        if answer.status() != StatusCode::OK || answer.content_length().is_some_and(|length| length > LONGEST) {
            return false;
        }
        answer.text().await.is_ok_and(|text| is_notice(&text))
    }
}

/// Whether the text of an answer with status 200 is a notice.
fn is_notice(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && !text.eq_ignore_ascii_case("false")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_google_and_amazon_answer_before_and_after_is_told_apart() {
        let action = r#"{"action": "terminate", "time": "2026-01-01T00:00:00Z"}"#;
        let notices = ["TRUE", "TRUE\n", action].map(is_notice);
        let none = ["FALSE", "false\n", "", "\n"].map(is_notice);
        assert_eq!((notices, none), ([true; 3], [false; 4]));
    }
}
