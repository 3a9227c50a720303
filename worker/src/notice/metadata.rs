//! A metadata service that is asked for notices of pre-emption.

use std::collections::BTreeSet;
use std::error::Error;

use cappa_shared::causes::with_causes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use thiserror::Error;

use super::PERIOD;

/// An answer that is longer than this is none of a metadata service.
const LONGEST: u64 = 64 * 1024;

/// Version 2 of Amazon's service answers only requests with a token, which it gives out for so long at most.
const TOKEN_SECONDS: HeaderValue = HeaderValue::from_static("21600");
const TOKEN_TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");

/// Why a service can't be asked. What it would announce is not heard.
#[derive(Debug, Error)]
enum Trouble {
    #[error("it can't be reached; check the address of --preemption-url from this machine")]
    Away(#[source] reqwest::Error),
    #[error(
        "it wants a session token (IMDSv2) and gives none; in a container raise the hop limit (aws ec2 \
         modify-instance-metadata-options --http-put-response-hop-limit 2), else make tokens optional, or have an agent on the host \
         create the file of --preemption-file"
    )]
    NoToken(#[source] Box<dyn Error + Send + Sync>),
    #[error(
        "it answers with status {0}, which is neither 200 nor 404; check the path of --preemption-url and who may ask"
    )]
    Status(StatusCode),
    #[error("its answer is no notice but of {0} bytes; check the path of --preemption-url")]
    TooLong(u64),
}

/// A service that is asked for notices.
pub(super) struct Service {
    client: Client,
    pub(super) url: Url,
    token: Option<HeaderValue>,
    /// Troubles that the log has, each once.
    told: BTreeSet<String>,
}

impl Service {
    pub(super) fn new(url: Url) -> reqwest::Result<Self> {
        // Google's service answers only those who say that they mean it; others don't mind.
        let headers =
            HeaderMap::from_iter([(HeaderName::from_static("metadata-flavor"), HeaderValue::from_static("Google"))]);
        // Metadata are the machine's own: no proxy on the way, and no other place to be sent to.
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(PERIOD * 2)
            .default_headers(headers)
            .build()?;
        Ok(Self { client, url, token: None, told: BTreeSet::new() })
    }

    /// Whether it says so now. A service that is away, or answers with an error, says nothing: the log has that once.
    pub(super) async fn announces(&mut self) -> bool {
        match self.ask().await {
            Ok(is_announced) => is_announced,
            Err(trouble) => {
                if self.told.insert(trouble.to_string()) {
                    let (url, error) = (&self.url, with_causes(&trouble));
                    tracing::warn!(%url, error, "no notice of pre-emption can be heard from the metadata service; asking on");
                }
                false
            }
        }
    }

    async fn ask(&mut self) -> Result<bool, Trouble> {
        let mut answer = self.get().await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            // The first time, or the token has lapsed.
            self.token = Some(self.new_token().await.map_err(Trouble::NoToken)?);
            answer = self.get().await?;
        }
        match (answer.status(), answer.content_length()) {
            (StatusCode::NOT_FOUND, _) => Ok(false),
            (StatusCode::OK, Some(length)) if length > LONGEST => Err(Trouble::TooLong(length)),
            (StatusCode::OK, _) => Ok(is_notice(&answer.text().await.map_err(Trouble::Away)?)),
            (status, _) => Err(Trouble::Status(status)),
        }
    }

    async fn get(&self) -> Result<Response, Trouble> {
        let token = self.token.iter().map(|token| (TOKEN, token.clone()));
        self.client.get(self.url.clone()).headers(token.collect()).send().await.map_err(Trouble::Away)
    }

    async fn new_token(&self) -> Result<HeaderValue, Box<dyn Error + Send + Sync>> {
        let mut url = self.url.clone();
        url.set_path("/latest/api/token");
        let answer = self.client.put(url).header(TOKEN_TTL, TOKEN_SECONDS).send().await?.error_for_status()?;
        Ok(HeaderValue::from_str(answer.text().await?.trim())?)
    }
}

/// Whether the text of an answer with status 200 is a notice.
fn is_notice(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && !text.eq_ignore_ascii_case("false")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use axum::http::HeaderMap as Headers;
    use axum::routing::{get, put};
    use parking_lot::Mutex;

    use super::*;

    const ACTION: &str = r#"{"action": "terminate", "time": "2026-01-01T00:00:00Z"}"#;

    #[test]
    fn what_google_and_amazon_answer_before_and_after_is_told_apart() {
        let notices = ["TRUE", "TRUE\n", ACTION].map(is_notice);
        let none = ["FALSE", "false\n", "", "\n"].map(is_notice);
        assert_eq!((notices, none), ([true; 3], [false; 4]));
    }

    /// What Amazon's service answers: with status 401 to whoever does not show its token.
    #[derive(Default)]
    struct Amazon {
        token: &'static str,
        gives_tokens: bool,
        notice: Option<&'static str>,
    }

    async fn serve(amazon: Arc<Mutex<Amazon>>) -> Service {
        let of = |headers: &Headers, name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let (give, tell) = (amazon.clone(), amazon);
        let token = put(move |headers: Headers| async move {
            let amazon = give.lock();
            let is_asked = of(&headers, "X-aws-ec2-metadata-token-ttl-seconds").as_deref() == Some("21600");
            match amazon.gives_tokens && is_asked {
                true => (StatusCode::OK, amazon.token),
                false => (StatusCode::FORBIDDEN, ""),
            }
        });
        let action = get(move |headers: Headers| async move {
            let amazon = tell.lock();
            match amazon.notice {
                _ if of(&headers, "X-aws-ec2-metadata-token").as_deref() != Some(amazon.token) => {
                    (StatusCode::UNAUTHORIZED, "")
                }
                None => (StatusCode::NOT_FOUND, "not found"),
                Some(text) => (StatusCode::OK, text),
            }
        });
        let router =
            Router::new().route("/latest/api/token", token).route("/latest/meta-data/spot/instance-action", action);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Service::new(format!("http://{address}/latest/meta-data/spot/instance-action").parse().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_service_that_wants_a_token_is_given_one_and_a_new_one_when_that_has_lapsed() {
        let amazon = Arc::new(Mutex::new(Amazon { token: "first", gives_tokens: true, notice: None }));
        let mut service = serve(amazon.clone()).await;
        assert!(!service.announces().await);
        amazon.lock().token = "second";
        assert!(!service.announces().await);
        assert!(service.told.is_empty(), "no notice is no trouble: {:?}", service.told);
        amazon.lock().notice = Some(ACTION);
        assert!(service.announces().await);
    }

    #[tokio::test]
    async fn a_service_that_can_not_be_heard_is_told_of_once_with_what_to_do() {
        let amazon = Arc::new(Mutex::new(Amazon { token: "first", notice: Some(ACTION), ..Amazon::default() }));
        let mut service = serve(amazon.clone()).await;
        assert!(!service.announces().await && !service.announces().await);
        let told: Vec<_> = service.told.iter().collect();
        assert!(told.len() == 1 && told[0].contains("hop limit") && told[0].contains("--preemption-file"), "{told:?}");
        amazon.lock().gives_tokens = true;
        assert!(service.announces().await, "it is asked on");

        service.url.set_path("/latest/api/token");
        assert!(!service.announces().await);
        assert!(service.told.iter().any(|trouble| trouble.contains("405")), "neither 200 nor 404: {:?}", service.told);
    }
}
