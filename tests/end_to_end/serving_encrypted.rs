//! `serve` with a certificate: what it answers over `https`, to whom else it does not, and certificates that are none.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::home::{Home, run};
use crate::serving::{Answered, PROTOBUF, Serving, answered, ids, otlp_protobuf, post, stored_ids};

const SERVE: [&str; 7] = ["serve", "--otlp", "--json", "--store", "telemetry.sqlite", "--listen", "127.0.0.1:0"];
const TLS: [&str; 4] = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];

/// A home with a certificate of 127.0.0.1 that vouches for itself, and its key.
fn home() -> Home {
    let home = Home::empty();
    certify(&home, "");
    home
}

pub(crate) fn certify(home: &Home, prefix: &str) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    home.write(&format!("{prefix}cert.pem"), cert.pem());
    home.write(&format!("{prefix}key.pem"), signing_key.serialize_pem());
}

/// A client that trusts the certificate of `home`, and nobody else.
fn connect(home: &Home, address: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&home.read("cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), TcpStream::connect(address).unwrap())
}

fn send(home: &Home, serving: &Serving, head: &str, headers: &str, body: &[u8]) -> Answered {
    let (address, length) = (&serving.address, body.len());
    let head =
        format!("{head} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
    let mut stream = connect(home, address);
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    answered(stream).unwrap()
}

#[test]
fn spans_and_pages_go_over_https_and_nothing_over_http() {
    let home = home();
    let mut serving = Serving::started(home.command(&[&SERVE[..], &TLS].concat()));
    assert_eq!(serving.announced["endpoint"], format!("https://{}", serving.address));
    let headers = serving.headers(PROTOBUF);
    let sent = send(&home, &serving, "POST /v1/traces", &headers, &otlp_protobuf(0..3));
    assert_eq!(sent.status, 200, "{}", sent.text());
    let page = send(&home, &serving, "GET /healthz", "", b"");
    assert_eq!((page.status, page.text()), (200, "ok\n"));

    // Who speaks without encryption gets an alert and no word of HTTP, and is in nobody's way.
    let plain = post(&serving.address, "/v1/traces", &headers, &otlp_protobuf(3..6)).unwrap_err().to_string();
    assert!(!plain.contains("HTTP"), "{plain}");
    assert_eq!(send(&home, &serving, "POST /v1/traces", &headers, &otlp_protobuf(6..7)).status, 200);
    assert!(!serving.log().contains("panicked"), "{}", serving.log());
    serving.stop();
    assert_eq!(stored_ids(&home), ids([0, 1, 2, 6]));
}

#[test]
fn who_does_not_finish_a_handshake_is_dropped_in_its_time_and_takes_a_place_until_then() {
    let home = home();
    let limits = ["--request-timeout-s", "1", "--max-connections", "1"];
    let serving = Serving::started(home.command(&[&SERVE[..], &TLS, &limits].concat()));
    let mut silent = TcpStream::connect(&serving.address).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    assert_eq!(send(&home, &serving, "GET /healthz", "", b"").status, 200);
    assert!(start.elapsed() > Duration::from_millis(500), "the only place was taken: {:?}", start.elapsed());
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0, "closed");
    serving.stop();
}

#[test]
fn tokens_are_told_to_come_unencrypted_only_where_they_do() {
    let home = home();
    let everywhere = ["serve", "--otlp", "--json", "--store", "telemetry.sqlite", "--listen", "0.0.0.0:0"];
    let log = |more: &[&str]| Serving::started(home.command(&[&everywhere[..], more].concat())).log();
    assert!(log(&[]).contains("tokens come unencrypted: name a certificate with `--tls-cert` and `--tls-key`"));
    assert!(!log(&TLS).contains("unencrypted"));
}

#[test]
fn a_certificate_is_found_beside_the_configuration_that_names_it() {
    let home = home();
    let files = "[serve]\ntls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n";
    fs::create_dir_all(home.path("tenants/acme")).unwrap();
    home.write("tunesmith.toml", files);
    home.write("operator.toml", format!("tenants_dir = \"tenants\"\n{files}[tenants.acme]\n"));
    for (flag, file) in [("--config", "tunesmith.toml"), ("--operator", "operator.toml")] {
        let (file, store) = (home.path(file).display().to_string(), home.path("t.sqlite").display().to_string());
        let own = ["serve", "--otlp", "--json", "--listen", "127.0.0.1:0", flag, &file];
        let more: &[&str] = if flag == "--config" { &["--store", &store] } else { &[] };
        let mut command = home.command(&[&own, more].concat());
        command.current_dir(std::env::temp_dir());
        let serving = Serving::started(command);
        assert_eq!(send(&home, &serving, "GET /healthz", "", b"").status, 200, "{flag}");
        serving.stop();
    }
    let operator = home.path("operator.toml").display().to_string();
    for (flag, key) in [("--tls-cert", "tls_cert"), ("--tls-key", "tls_key")] {
        let ended = run(home.command(&["serve", "--otlp", "--operator", &operator, flag, "cert.pem"]));
        assert_eq!(
            (ended.code, ended.error()),
            (
                Some(1),
                format!(
                    "`{key}` is given: all tenants are reached by one: leave it out, and set it in `[serve]` of the \
                     operator's file"
                )
                .as_str()
            )
        );
    }
}

#[test]
fn what_is_no_certificate_with_its_key_is_told_at_the_start() {
    let home = home();
    certify(&home, "other-");
    home.write("token", "0123456789abcdef0123456789abcdef");
    home.write("damaged.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
    home.write("untrue.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let refuses = |args: &[&str], error: &str| {
        home.fails(&[&["serve", "--otlp", "--store", "t.sqlite", "--token-file", "token"], args].concat(), error)
    };
    refuses(
        &["--tls-cert", "cert.pem"],
        "`serve.tls_key` is not set: name the file with the certificate's key with `--tls-key`",
    );
    refuses(
        &["--tls-key", "key.pem"],
        "`serve.tls_cert` is not set: name the file with the key's certificate with `--tls-cert`",
    );
    let with = |cert: &str, key: &str, error: &str| refuses(&["--tls-cert", cert, "--tls-key", key], error);
    with(
        "cert.pem",
        "other-key.pem",
        "the key in `other-key.pem` is not that of the first certificate in `cert.pem`: name the two that were made together",
    );
    with(
        "nowhere.pem",
        "key.pem",
        "cannot read `nowhere.pem` of `--tls-cert` (No such file or directory (os error 2)): name a readable PEM file",
    );
    with("cert.pem", ".", "cannot read `.` of `--tls-key` (Is a directory (os error 21)): name a readable PEM file");
    with("key.pem", "key.pem", "`key.pem` of `--tls-cert` has no certificate in PEM: name the file that has");
    with(
        "cert.pem",
        "cert.pem",
        "`cert.pem` of `--tls-key` has no unencrypted private key in PEM: name the file that has",
    );
    with(
        "damaged.pem",
        "key.pem",
        "`damaged.pem` of `--tls-cert` is not PEM (base64 decode error: InvalidCharacter(33)): name the file as it was made",
    );
    with(
        "untrue.pem",
        "key.pem",
        "the certificate in `untrue.pem` or its key in `key.pem` can't be served (invalid peer certificate: BadEncoding): \
         make them anew, such as by `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes`",
    );
}
