//! A network between a process and a server that can be cut.

use std::net::SocketAddr;

use cappa_test_stores::S3Server;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A port that leads to a server, until it is cut.
pub struct Line {
    address: SocketAddr,
    is_cut: watch::Sender<bool>,
}

impl Line {
    pub async fn to(server: &S3Server) -> Self {
        let server = server.endpoint().trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_cut, cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, server, cut.clone()));
            }
        });
        Self { address, is_cut }
    }

    /// What a process needs in its environment to reach the server by this line alone.
    pub fn environment(&self, server: &S3Server) -> [(&'static str, String); 4] {
        server.environment().map(|(name, value)| match name {
            "AWS_ENDPOINT_URL" => (name, format!("http://{}", self.address)),
            _ => (name, value),
        })
    }

    /// Nothing arrives any more, and nobody is told.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// From now on it leads to the server again; what was under way is lost.
    pub fn mend(&self) {
        self.is_cut.send_replace(false);
    }
}

async fn carry(mut near: TcpStream, server: SocketAddr, mut cut: watch::Receiver<bool>) {
    if !*cut.borrow() {
        let Ok(mut far) = TcpStream::connect(server).await else { return };
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
            _ = cut.wait_for(|cut| *cut) => {}
        }
    }
    let _ = cut.wait_for(|cut| !cut).await;
}
