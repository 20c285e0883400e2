// A client that shares no code with ours: grpc-js on the .proto files. Prints one JSON object; the test checks it.
// node node_client.js PROTO_FOLDER HOST:PORT
'use strict'
const crypto = require('crypto')
const path = require('path')
const tools = path.join(__dirname, '../../deploy/dev/node/node_modules')
const grpc = require(path.join(tools, '@grpc/grpc-js'))
const loader = require(path.join(tools, '@grpc/proto-loader'))

const [protos, address] = process.argv.slice(2)
const definition = loader.loadSync('homenode_api/v1/directory.proto', { includeDirs: [protos], longs: Number, oneofs: true, enums: String })
const api = grpc.loadPackageDefinition(definition).homenode_api.v1
const client = new api.DirectoryService(address, grpc.credentials.createInsecure())
const limit = () => ({ deadline: Date.now() + 20000 })
const call = (name, request) => new Promise((resolve, reject) =>
  client[name](request, limit(), (error, answer) => error ? reject(error) : resolve(answer)))

// zstd, one raw block: enough to write a snapshot without a library.
function frame (bytes) {
  const header = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x20, bytes.length])
  const block = Buffer.alloc(3)
  block.writeUIntLE(bytes.length << 3 | 1, 0, 3)
  return Buffer.concat([header, block, bytes])
}
function content (text) {
  const bytes = Buffer.from(text)
  return { hash: crypto.createHash('sha256').update(bytes).digest(), size: bytes.length, snapshot: frame(bytes) }
}

async function main () {
  const found = {}
  const writer = await call('OpenSession', { workspace: 'main', name: 'node' })
  const reader = await call('OpenSession', { workspace: 'main', name: 'node reader' })
  const created = await call('Commit', { sessionId: writer.sessionId, requestId: 1, key: 'from/node', absent: true, content: content('hello') })
  found.created = created.version.n

  const stream = client.Session()
  const items = []
  let wake = () => {}
  stream.on('data', frame => { items.push(...frame.items); wake() })
  const ended = new Promise((resolve, reject) => { stream.on('end', resolve); stream.on('error', reject) })
  const until = async wanted => {
    for (;;) {
      const item = items.find(wanted)
      if (item) return item
      await new Promise(resolve => { wake = resolve })
    }
  }
  stream.write({ operations: [{ session: 1, requestId: 1, attach: { sessionId: reader.sessionId } }] })
  await until(item => item.answer && item.answer.attach)
  stream.write({ operations: [{ session: 1, requestId: 2, read: { key: 'from/node', share: true } }, { session: 1, ping: { sentAt: 42 } }] })
  const read = await until(item => item.answer && item.answer.read)
  found.cacheable = read.answer.read.cacheable
  found.bookmark = (await until(item => item.bookmark)).bookmark.echo

  await call('Commit', { sessionId: writer.sessionId, requestId: 2, key: 'from/node', version: created.version, content: content('hello again') })
  found.invalidated = (await until(item => item.invalidation)).invalidation.version.n
  stream.end()
  await ended

  const watch = client.Watch({ sessionId: reader.sessionId, prefix: 'from/' })
  const changes = []
  await new Promise((resolve, reject) => {
    watch.on('error', error => changes.length ? resolve() : reject(error))
    watch.on('data', message => {
      if (message.started) call('Commit', { sessionId: writer.sessionId, requestId: 3, key: 'from/node', any: true, content: content('third') }).catch(reject)
      if (message.change) { changes.push(message.change.version.n); watch.cancel() }
    })
  })
  found.changes = changes

  try {
    await call('Commit', { sessionId: writer.sessionId, requestId: 4, key: 'from/node', absent: true, content: content('x') })
  } catch (error) {
    found.refused = { code: error.code, details: error.details, rich: error.metadata.get('grpc-status-details-bin').length }
  }
  const chunks = []
  const body = client.ReadContent({ sessionId: writer.sessionId, key: 'from/node', version: created.version })
  await new Promise((resolve, reject) => { body.on('data', m => chunks.push(m)); body.on('end', resolve); body.on('error', reject) })
  found.encoding = chunks[0].header.encoding
  const listed = await call('List', { sessionId: writer.sessionId, prefix: 'from/' })
  found.listed = listed.artifacts.map(one => one.key)
  console.log(JSON.stringify(found))
  client.close()
}
main().catch(error => { console.error(error); process.exit(1) })
