//! The server's life.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ClientOptions, RetryConfig};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;

use crate::buckets::Buckets;
use crate::connection;
use crate::faults::Faults;
use crate::s3::Operations;

const KEY: &str = "test-key";
const SECRET: &str = "test-secret";
const REGION: &str = "us-east-1";

/// A running S3 server. Ends when dropped.
pub struct S3Server {
    address: SocketAddr,
    buckets: Arc<Buckets>,
    faults: Arc<Faults>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl S3Server {
    /// Starts a server on a free port of the loopback, on threads of its own, with these buckets.
    ///
    /// # Panics
    /// When the machine gives no port or no threads.
    pub fn start(buckets: &[&str]) -> Self {
        Self::start_on("127.0.0.1", buckets)
    }

    /// The same on a free port of another address of this machine.
    ///
    /// # Panics
    /// When the machine gives no port or no threads.
    pub fn start_on(host: &str, buckets: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("threads can be started");
        // Bound without the runtime, because the caller may be inside of one.
        let listener = std::net::TcpListener::bind((host, 0)).expect("the address has a free port");
        listener.set_nonblocking(true).expect("a fresh socket takes the option");
        let address = listener.local_addr().expect("a bound socket has an address");
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).expect("the runtime runs")
        };
        let (kept, faults) = (Arc::new(Buckets::default()), Arc::new(Faults::default()));
        buckets.iter().for_each(|bucket| kept.create(bucket));
        let service = {
            let mut builder = S3ServiceBuilder::new(Operations(Arc::clone(&kept)));
            builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
            builder.build()
        };
        runtime.spawn(accept(listener, service, Arc::clone(&faults)));
        Self { address, buckets: kept, faults, runtime: Some(runtime) }
    }

    /// The address as a URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What goes wrong, and what was asked.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What a child process needs in its environment to open `s3://BUCKET/…` on this server.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
            ("AWS_REGION", REGION.into()),
        ]
    }

    /// A client for a bucket that tries every request once, so that tests see each failure.
    ///
    /// # Panics
    /// When the client's settings are refused.
    pub fn store(&self, bucket: &str) -> Arc<AmazonS3> {
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let store = AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_access_key_id(KEY)
            .with_secret_access_key(SECRET)
            .with_region(REGION)
            .with_bucket_name(bucket)
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_retry(once)
            .build();
        Arc::new(store.expect("the settings make a client"))
    }

    /// Puts an object in place, beside the wire.
    ///
    /// # Panics
    /// When there is no such bucket.
    pub fn put(&self, bucket: &str, key: &str, content: impl Into<Bytes>) {
        self.buckets.put(bucket, key, content.into(), None, None).expect("the bucket was made at the start");
    }

    /// Content of an object, beside the wire.
    pub fn get(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.buckets.get(bucket, key).ok().map(|object| object.content)
    }

    /// Keys of a bucket, in order.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.buckets.of(bucket, |objects| Ok(objects.keys().cloned().collect())).unwrap_or_default()
    }

    /// Keys of a bucket's objects that are being uploaded in pieces: begun, and neither completed nor aborted.
    pub fn uploads(&self, bucket: &str) -> Vec<String> {
        self.buckets.uploads.keys(bucket)
    }

    /// Makes the server ignore `If-None-Match` and `If-Match` on writes, as some servers do.
    pub fn ignore_conditions(&self, ignore: bool) {
        self.buckets.ignores_conditions.store(ignore, Ordering::Relaxed);
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Without waiting: a test may drop the server inside of a runtime of its own.
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, service: S3Service, faults: Arc<Faults>) {
    while let Ok((stream, _)) = listener.accept().await {
        // Small answers at once; where the option is refused they merely come later.
        let _ = stream.set_nodelay(true);
        tokio::spawn(connection::serve(stream, service.clone(), Arc::clone(&faults)));
    }
}
