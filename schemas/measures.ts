/** The quantities a reading may hold: each with its unit, its meaning and the most a window can hold. Pure. */

interface Measure {
  readonly unit: string
  readonly meaning: string
  /** `window`: at most the window's seconds for each part of the reading. `free`: only the bounds of any value. */
  readonly bound: 'window' | 'free'
}

/** Base units, integrated over the window. Names end in their unit; a new measure is a line here. */
export const measures = {
  instance_seconds: { unit: 's', meaning: 'Time an instance was allocated.', bound: 'window' },
  gpu_seconds: { unit: 'GPU.s', meaning: 'GPUs allocated, times the time.', bound: 'free' },
  gpu_active_seconds: { unit: 'GPU.s', meaning: 'GPUs times utilisation, times the time.', bound: 'free' },
  gpu_idle_seconds: { unit: 'GPU.s', meaning: 'GPUs allocated and idle, times the time.', bound: 'free' },
  gpu_memory_byte_seconds: { unit: 'By.s', meaning: 'GPU memory used, times the time.', bound: 'free' },
  cpu_core_seconds: { unit: 'core.s', meaning: 'CPU cores allocated, times the time.', bound: 'free' },
  memory_byte_seconds: { unit: 'By.s', meaning: 'Memory allocated, times the time.', bound: 'free' },
  storage_byte_seconds: { unit: 'By.s', meaning: 'Storage provisioned, times the time.', bound: 'free' },
  network_receive_bytes: { unit: 'By', meaning: 'Bytes received.', bound: 'free' },
  network_transmit_bytes: { unit: 'By', meaning: 'Bytes sent.', bound: 'free' },
  nvlink_receive_bytes: { unit: 'By', meaning: 'Bytes received over NVLink.', bound: 'free' },
  nvlink_transmit_bytes: { unit: 'By', meaning: 'Bytes sent over NVLink.', bound: 'free' },
  pcie_receive_bytes: { unit: 'By', meaning: 'Bytes received over PCIe.', bound: 'free' },
  pcie_transmit_bytes: { unit: 'By', meaning: 'Bytes sent over PCIe.', bound: 'free' },
  load_balancer_seconds: { unit: 's', meaning: 'Time a load balancer had an address.', bound: 'window' },
  energy_joules: { unit: 'J', meaning: 'Energy used.', bound: 'free' },
  tokens: { unit: 'token', meaning: 'Model tokens, input and output.', bound: 'free' },
  input_tokens: { unit: 'token', meaning: 'Model tokens read.', bound: 'free' },
  output_tokens: { unit: 'token', meaning: 'Model tokens written.', bound: 'free' },
  requests: { unit: '1', meaning: 'Requests served.', bound: 'free' },
} as const satisfies Record<string, Measure>

export type MeasureName = keyof typeof measures
export const measureNames = Object.keys(measures) as readonly MeasureName[]
