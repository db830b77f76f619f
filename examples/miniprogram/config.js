module.exports = {
  // Your gateway, for trial and release versions.
  base: 'https://api.example.com',

  // In development: the gateway and the simulator of examples/local. null: base and WeChat.
  local: { base: 'http://127.0.0.1:8080', simulator: 'http://127.0.0.1:8300' }
}
