//! Objects in S3. Region, endpoint and credentials come from the environment, as everywhere in AWS.

use aws_sdk_s3::{Client, error::SdkError};

use super::fetch::too_large;

/// A client for any bucket.
pub(crate) struct Bucket(Client);

/// What a look at an object found.
pub(crate) enum Object {
    Unchanged,
    Changed { etag: Option<String>, bytes: Vec<u8> },
}

const NOT_MODIFIED: u16 = 304;

impl Bucket {
    pub(crate) async fn connect() -> Self {
        let shared = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
        let mut config = aws_sdk_s3::config::Builder::from(&shared);
        if shared.endpoint_url().is_some() {
            // Anything but AWS itself has one name for all buckets.
            config = config.force_path_style(true);
        }
        Self(Client::from_conf(config.build()))
    }

    pub(crate) async fn get(
        &self,
        bucket: &str,
        key: &str,
        known: Option<&str>,
        max_bytes: usize,
    ) -> Result<Object, String> {
        let get = self.0.get_object().bucket(bucket).key(key).set_if_none_match(known.map(str::to_owned));
        let mut object = match get.send().await {
            Ok(object) => object,
            Err(SdkError::ServiceError(error)) if error.raw().status().as_u16() == NOT_MODIFIED => {
                return Ok(Object::Unchanged);
            }
            Err(error) => return Err(aws_sdk_s3::error::DisplayErrorContext(error).to_string()),
        };
        let mut bytes = Vec::new();
        while let Some(chunk) = object.body.try_next().await.map_err(|error| error.to_string())? {
            if bytes.len() + chunk.len() > max_bytes {
                return Err(too_large(max_bytes));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Object::Changed { etag: object.e_tag, bytes })
    }
}
