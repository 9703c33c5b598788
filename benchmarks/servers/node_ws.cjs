// Node's ws, with its optional bufferutil where it is installed. `node node_ws.cjs PORT echo|deflate|broadcast`

const { WebSocketServer } = require('ws')

const mode = process.argv[3]
const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(process.argv[2]),
  perMessageDeflate: mode === 'deflate',
})

server.on('connection', (ws) => {
  ws.on('error', () => {})
  ws.on('message', (data, isBinary) => {
    if (mode === 'broadcast') {
      for (const other of server.clients) other.send(data, { binary: isBinary })
    } else {
      ws.send(data, { binary: isBinary })
    }
  })
})
