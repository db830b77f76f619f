package rig

// ServiceKey is a key for `service_key`.
const ServiceKey = "5f2b8c0d9e1a4f7c6b3d2e8f0a1c9b7d"

// TrustedLoopback lets a test act as many clients, through X-Forwarded-For.
const TrustedLoopback = "servers {\ntrusted_proxies static 127.0.0.1/32\ntrusted_proxies_strict\n}"
