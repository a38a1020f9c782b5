//! Namespaces, kernel peers and processes for the integration tests.
