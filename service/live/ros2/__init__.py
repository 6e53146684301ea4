"""ROS 2 by rclpy: the node that sources and sinks share, and what it needs of the process."""
