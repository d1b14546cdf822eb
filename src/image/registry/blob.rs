//! Blobs on their way in.

use std::io::{self, Read};
use std::sync::Arc;

use ureq::BodyReader;
use ureq::http::{Method, StatusCode, header};

use super::http::Patience;
use super::{RegistryError, Session};
use crate::image::manifest::Descriptor;
use crate::image::verified::Verified;
use crate::image::{Digest, ImageError};

/// Reads a blob, and goes on where it was when the connection breaks. What it reads is not verified.
///
/// Errors are [`io::Error`]s that hold a [`RegistryError`].
pub struct BlobReader {
    session: Arc<Session>,
    digest: Digest,
    size: u64,
    at: u64,
    body: Option<BodyReader<'static>>,
    patience: Patience,
}

impl std::fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobReader")
            .field("digest", &self.digest)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Reads a blob. The reader fails if the bytes are not those that the descriptor promises.
    /// # Errors
    /// [`RegistryError::NotFound`] and others.
    pub fn blob(self: &Arc<Self>, blob: &Descriptor) -> Result<impl Read + Send + use<>, RegistryError> {
        let mut reader = BlobReader {
            session: Arc::clone(self),
            digest: blob.digest.clone(),
            size: blob.size,
            at: 0,
            body: None,
            patience: Patience::default(),
        };
        // Now, so that what is not there is told as such.
        reader.begin()?;
        Ok(Verified::new(reader, blob.digest.clone(), Some(blob.size)))
    }

    /// Reads a whole blob that is not large.
    /// # Errors
    /// As [`Self::blob`]; what was read with the digest that is wrong, as [`ImageError::WrongDigest`].
    pub fn small_blob(self: &Arc<Self>, blob: &Descriptor, bytes_max: u64) -> Result<Vec<u8>, ImageError> {
        if blob.size > bytes_max {
            return Err(ImageError::TooLarge { what: "bytes of a configuration", limit: bytes_max });
        }
        let mut bytes = Vec::new();
        self.blob(blob)?.read_to_end(&mut bytes).map_err(|error| match error.downcast::<ImageError>() {
            Ok(ImageError::WrongDigest { expected, found, .. }) => {
                ImageError::WrongDigest { what: "the configuration".to_owned(), expected, found }
            }
            Ok(error) => error,
            Err(error) => match error.downcast::<RegistryError>() {
                Ok(error) => error.into(),
                Err(source) => ImageError::Read { source },
            },
        })?;
        Ok(bytes)
    }
}

impl BlobReader {
    /// Asks for what is still to come.
    fn begin(&mut self) -> Result<(), RegistryError> {
        let what = format!("blob {}", self.digest);
        let path = format!("/v2/{}/blobs/{}", self.session.repository(), self.digest);
        let headers: &[_] = if self.at > 0 { &[(header::RANGE, format!("bytes={}-", self.at))] } else { &[] };
        let response = self.session.request(&Method::GET, &path, headers, &what)?;
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range =
                    response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
                let begins = range
                    .and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse::<u64>().ok());
                if begins != Some(self.at) {
                    return Err(RegistryError::BadAnswer {
                        registry: self.session.registry().to_owned(),
                        reason: format!("it was asked for {what} from byte {}, and gave {range:?}", self.at),
                    });
                }
                0
            }
            // Some know no ranges, and begin again.
            status if status.is_success() => self.at,
            _ => return Err(self.session.refused(response, &what)),
        };
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        if skip > 0 {
            let skipped = io::copy(&mut (&mut body).take(skip), &mut io::sink());
            if skipped.map_err(|error| self.session.broken(&error))? < skip {
                return Err(self.session.broken(&io::ErrorKind::UnexpectedEof.into()));
            }
        }
        self.body = Some(body);
        Ok(())
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.session.check_cancelled().map_err(io::Error::other)?;
            let error = match &mut self.body {
                Some(body) => match body.read(buffer) {
                    // Too early: the registry, or something on the way, has hung up.
                    Ok(0) if self.at < self.size && !buffer.is_empty() => io::ErrorKind::UnexpectedEof.into(),
                    Ok(count) => {
                        self.at += count as u64;
                        if count > 0 {
                            self.patience.renew();
                        }
                        return Ok(count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => error,
                },
                None => io::ErrorKind::NotConnected.into(),
            };
            self.body = None;
            let cause = self.session.broken(&error);
            if !self.patience.wait(&self.session, None).map_err(io::Error::other)? {
                return Err(io::Error::other(cause));
            }
            match self.begin() {
                Ok(()) | Err(RegistryError::Unreachable { .. }) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}
