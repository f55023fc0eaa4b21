//! What `check --connect` asks Elasticsearch.
