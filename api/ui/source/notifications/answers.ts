/** The answers of the service about channels and notifications. */

export interface ChannelEntry {
  name: string;
  type: string;
  url: string;
  events: string[];
  signed: boolean;
  paused: boolean;
  paused_reason: string | null;
  retry_at: string | null;
  created_at: string;
}

export interface NotificationEntry {
  id: string;
  channel: string;
  event: string;
  workflow_id: string;
  playbook: string;
  status: string;
  state: "pending" | "held" | "undelivered";
  attempts: number;
  created_at: string;
  due_at: string | null;
  problem: string | null;
}
