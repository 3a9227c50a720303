//! Shards of pictures, in a folder or behind a web server that can be made to stall.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as Name, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cappa_data::synth::{SynthConfig, generate};
use parking_lot::Mutex;

/// Writes a corpus of so many samples in shards of 16: `train-000000.tar`, ….
pub fn write(folder: &Path, samples: u64) -> PathBuf {
    let config = SynthConfig { samples, heldout: 50, image_size: 48, samples_per_shard: 16, ..SynthConfig::default() };
    generate(&config, folder, &|_, _| {}).unwrap();
    folder.to_owned()
}

/// A web server with the files of a folder.
#[derive(Clone)]
pub struct Web {
    folder: PathBuf,
    pub address: Option<SocketAddr>,
    /// Reads of this file wait.
    stalled: Arc<Mutex<Option<String>>>,
    /// Reads so far, by file.
    reads: Arc<Mutex<BTreeMap<String, usize>>>,
    is_away: Arc<AtomicBool>,
}

impl Web {
    pub async fn serve(folder: &Path) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Some(listener.local_addr().unwrap());
        let (stalled, reads, is_away) = (Arc::default(), Arc::default(), Arc::default());
        let web = Self { folder: folder.to_owned(), address, stalled, reads, is_away };
        let router = Router::new().route("/{name}", axum::routing::get(file)).with_state(web.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        web
    }

    /// The URL of a name, which may have braces.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address.unwrap())
    }

    /// From now on reads of this file wait.
    pub fn stall(&self, name: &str) {
        *self.stalled.lock() = Some(name.to_owned());
    }

    pub fn go_on(&self) {
        *self.stalled.lock() = None;
    }

    /// From now on every answer is an error, or is right again.
    pub fn be_away(&self, away: bool) {
        self.is_away.store(away, Ordering::Relaxed);
    }

    pub fn reads(&self, name: &str) -> usize {
        self.reads.lock().get(name).copied().unwrap_or(0)
    }
}

async fn file(State(web): State<Web>, Name(name): Name<String>, method: Method, headers: HeaderMap) -> Response {
    if web.is_away.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let Ok(content) = std::fs::read(web.folder.join(&name)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let all = content.len();
    let facts = |length: usize| -> [(HeaderName, String); 3] {
        let date = "Thu, 01 Jan 2026 00:00:00 GMT".to_owned();
        [
            (header::CONTENT_LENGTH, length.to_string()),
            (header::ETAG, format!("\"{name}\"")),
            (header::LAST_MODIFIED, date),
        ]
    };
    if method == Method::HEAD {
        return (facts(all), ()).into_response();
    }
    *web.reads.lock().entry(name.clone()).or_default() += 1;
    while web.stalled.lock().as_ref() == Some(&name) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let range = headers.get(header::RANGE).and_then(|range| {
        let (first, last) = range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?.min(all - 1)))
    });
    match range {
        None => (facts(all), content).into_response(),
        Some((first, last)) => {
            let part = (header::CONTENT_RANGE, format!("bytes {first}-{last}/{all}"));
            let body = content[first..=last].to_vec();
            (StatusCode::PARTIAL_CONTENT, facts(body.len()), [part], body).into_response()
        }
    }
}
