//! Blobs and manifests on their way out.

use std::io::{self, Read};
use std::time::Duration;

use flate2::{Compression, read::GzEncoder};
use sha2::{Digest as _, Sha256};
use ureq::SendBody;
use ureq::http::{Method, Response, StatusCode, header};

use super::http::{Patience, encode, is_transient, retry_after};
use super::{RegistryError, Session};
use crate::image::manifest::Descriptor;
use crate::image::{Digest, LayerTar};

/// Fixed, so that the same layer always becomes the same blob. A middle: a third more time than the fastest, and nearly
/// the size of the default.
const LEVEL: u32 = 4;

/// What is sent.
#[derive(Debug)]
pub enum Upload<'a> {
    /// Bytes at hand.
    Bytes(&'a [u8]),
    /// A layer, compressed on the way by gzip.
    Layer(Box<LayerTar>),
}

/// Why an attempt has failed that is worth another, and when.
type Again = (RegistryError, Option<Duration>);

/// Counts and hashes what passes.
struct Passing<'a, R> {
    reader: R,
    hasher: Sha256,
    count: u64,
    session: &'a Session,
    progress: &'a dyn Fn(u64),
    failure: Option<String>,
}

impl<R: Read> Read for Passing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.session.check_cancelled().map_err(io::Error::other)?;
        let count = self.reader.read(buffer).inspect_err(|error| self.failure = Some(error.to_string()))?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        (self.progress)(self.count);
        Ok(count)
    }
}

impl Session {
    /// Whether the repository has a blob; its size, if so.
    /// # Errors
    /// Any but [`RegistryError::NotFound`].
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let path = format!("/v2/{}/blobs/{digest}", self.repository());
        let what = format!("blob {digest}");
        let response = self.request(&Method::HEAD, &path, &[], &what)?;
        match response.status() {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(response, &what)),
        }
    }

    /// Has the registry take a blob over from another of its repositories. False if it does not.
    /// # Errors
    /// [`RegistryError::Unreachable`] and others.
    pub fn mount(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        let query = encode(&[("mount", digest.to_string()), ("from", from.to_owned())]);
        let path = format!("/v2/{}/blobs/uploads/?{query}", self.repository());
        let response =
            self.request(&Method::POST, &path, &[(header::CONTENT_LENGTH, "0".to_owned())], "a mount")?;
        // 202 begins an upload, which we then do not make.
        Ok(response.status() == StatusCode::CREATED)
    }

    /// Sends a blob. `make` gives it from its beginning, as often as it is tried; `progress` gets the bytes sent.
    /// # Errors
    /// [`RegistryError::Unreachable`], [`RegistryError::Refused`] and others.
    pub fn upload<'a>(
        &self,
        media_type: &str,
        make: &dyn Fn() -> Result<Upload<'a>, RegistryError>,
        progress: &dyn Fn(u64),
    ) -> Result<Descriptor, RegistryError> {
        let mut patience = Patience::default();
        loop {
            let (error, after) = match self.try_upload(media_type, make()?, progress)? {
                Ok(descriptor) => return Ok(descriptor),
                Err(again) => again,
            };
            if !patience.wait(self, after)? {
                return Err(error);
            }
        }
    }

    /// One attempt. The inner error is worth another.
    fn try_upload(
        &self,
        media_type: &str,
        upload: Upload<'_>,
        progress: &dyn Fn(u64),
    ) -> Result<Result<Descriptor, Again>, RegistryError> {
        let path = format!("/v2/{}/blobs/uploads/", self.repository());
        let begun =
            self.request(&Method::POST, &path, &[(header::CONTENT_LENGTH, "0".to_owned())], "an upload")?;
        if begun.status() != StatusCode::ACCEPTED {
            return Err(self.refused(begun, "an upload"));
        }
        let location = self.location(&begun)?;
        let reader: Box<dyn Read + '_> = match upload {
            Upload::Bytes(bytes) => Box::new(bytes),
            Upload::Layer(tar) => Box::new(GzEncoder::new(
                io::BufReader::with_capacity(256 << 10, tar),
                Compression::new(LEVEL),
            )),
        };
        let mut passing =
            Passing { reader, hasher: Sha256::new(), count: 0, session: self, progress, failure: None };
        let octets = (header::CONTENT_TYPE, "application/octet-stream".to_owned());
        let sent = self.once(Method::PATCH, &location, &[octets], SendBody::from_reader(&mut passing));
        if let Some(reason) = passing.failure {
            // Our own side can't be read; trying again does not help.
            return Err(RegistryError::Refused {
                registry: self.registry().to_owned(),
                what: "an upload".to_owned(),
                reason,
            });
        }
        let sent = match self.judge(sent, "an upload")? {
            Ok(sent) => sent,
            Err(again) => return Ok(Err(again)),
        };
        let digest = Digest::from_hash(&passing.hasher.finalize());
        let location = self.location(&sent)?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{separator}{}", encode(&[("digest", digest.to_string())]));
        let empty = [(header::CONTENT_LENGTH, "0".to_owned())];
        let done = self.once(Method::PUT, &url, &empty, SendBody::none());
        Ok(match self.judge(done, "the end of an upload")? {
            Ok(_) => Ok(Descriptor::new(media_type, digest, passing.count)),
            Err(again) => Err(again),
        })
    }

    /// Sorts an answer: a success, what is worth another attempt, or an error for good.
    fn judge(
        &self,
        answer: Result<Response<ureq::Body>, RegistryError>,
        what: &str,
    ) -> Result<Result<Response<ureq::Body>, Again>, RegistryError> {
        match answer {
            Ok(response) if response.status().is_success() => Ok(Ok(response)),
            // A session of an upload that the registry has forgotten begins anew.
            Ok(response) if is_transient(response.status()) || response.status() == StatusCode::NOT_FOUND => {
                let after = retry_after(&response);
                Ok(Err((self.refused(response, what), after)))
            }
            Ok(response) => Err(self.refused(response, what)),
            Err(error @ RegistryError::Unreachable { .. }) => Ok(Err((error, None))),
            Err(error) => Err(error),
        }
    }

    /// Sends a manifest under a tag or a digest.
    /// # Errors
    /// [`RegistryError::Refused`] and others.
    pub fn put_manifest(&self, version: &str, media_type: &str, json: &[u8]) -> Result<(), RegistryError> {
        let path = self.url(&format!("/v2/{}/manifests/{version}", self.repository()));
        let mut patience = Patience::default();
        loop {
            let mut reader = json;
            let headers = [
                (header::CONTENT_TYPE, media_type.to_owned()),
                (header::CONTENT_LENGTH, json.len().to_string()),
            ];
            let answer = self.once(Method::PUT, &path, &headers, SendBody::from_reader(&mut reader));
            let (error, after) = match self.judge(answer, "the manifest")? {
                Ok(_) => return Ok(()),
                Err(again) => again,
            };
            if !patience.wait(self, after)? {
                return Err(error);
            }
        }
    }

    /// Where an upload goes on; a registry may say it without its own address.
    fn location(&self, response: &Response<ureq::Body>) -> Result<String, RegistryError> {
        let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
        match location {
            Some(location) if location.starts_with('/') || location.starts_with("http") => {
                Ok(self.url(location))
            }
            other => Err(RegistryError::BadAnswer {
                registry: self.registry().to_owned(),
                reason: format!("an upload is to go on at {other:?}"),
            }),
        }
    }
}
