const said = document.getElementById('said');
const state = document.getElementById('state');
let socket;

function connect(pause = 500) {
  socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/chat`);
  socket.onopen = () => { pause = 500; };
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.welcome) {
      state.textContent = `release ${message.welcome}, ${message.here} here`;
      return;
    }
    const line = document.createElement('li');
    line.textContent = message.said;
    said.append(line);
  };
  // A new release closes the connections of the one before: come back to the new one.
  socket.onclose = () => {
    state.textContent = 'reconnecting';
    setTimeout(connect, pause, Math.min(pause * 2, 10_000));
  };
}

document.getElementById('form').onsubmit = (event) => {
  event.preventDefault();
  const text = document.getElementById('text');
  if (socket.readyState === WebSocket.OPEN) {
    socket.send(text.value);
    text.value = '';
  }
};

connect();
